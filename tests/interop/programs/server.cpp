// Serve over libjson-rpc-cpp's Unix socket server until killed: server SOCKET 1|2.
// "server version" tells the library's version.

#include <csignal>
#include <iostream>
#include <string>

#include <jsonrpccpp/server.h>
#include <jsonrpccpp/server/connectors/unixdomainsocketserver.h>
#include <jsonrpccpp/version.h>
#include <unistd.h>

using namespace jsonrpc;

class Server : public AbstractServer<Server>
{
  public:
    Server(AbstractServerConnector &connector, serverVersion_t version)
        : AbstractServer<Server>(connector, version)
    {
        bindAndAddMethod(Procedure("add", PARAMS_BY_POSITION, JSON_INTEGER, "a", JSON_INTEGER, "b",
                                   JSON_INTEGER, NULL),
                         &Server::add);
        bindAndAddMethod(Procedure("subtract", PARAMS_BY_NAME, JSON_INTEGER, "minuend",
                                   JSON_INTEGER, "subtrahend", JSON_INTEGER, NULL),
                         &Server::subtract);
        bindAndAddMethod(
            Procedure("divide", PARAMS_BY_POSITION, JSON_REAL, "a", JSON_REAL, "b", JSON_REAL, NULL),
            &Server::divide);
        bindAndAddMethod(Procedure("last_told", PARAMS_BY_POSITION, JSON_INTEGER, NULL),
                         &Server::last_told);
        bindAndAddNotification(Procedure("tell", PARAMS_BY_POSITION, "what", JSON_INTEGER, NULL),
                               &Server::tell);
    }

  private:
    Json::Value told;

    void add(const Json::Value &given, Json::Value &result)
    {
        result = given[0u].asInt() + given[1u].asInt();
    }

    void subtract(const Json::Value &given, Json::Value &result)
    {
        result = given["minuend"].asInt() - given["subtrahend"].asInt();
    }

    void divide(const Json::Value &given, Json::Value &result)
    {
        if (given[1u].asDouble() == 0)
            throw JsonRpcException(-32050, "Division by zero is not allowed");
        result = given[0u].asDouble() / given[1u].asDouble();
    }

    void last_told(const Json::Value &, Json::Value &result) { result = told; }

    void tell(const Json::Value &given) { told = given[0u]; }
};

int main(int, char **arguments)
{
    if (arguments[1] == std::string("version")) {
        std::cout << JSONRPC_CPP_MAJOR_VERSION << "." << JSONRPC_CPP_MINOR_VERSION << "."
                  << JSONRPC_CPP_PATCH_VERSION << std::endl;
        return 0;
    }
    // It would end with the first client that does not wait for its reply.
    std::signal(SIGPIPE, SIG_IGN);
    UnixDomainSocketServer connector(arguments[1]);
    bool first_version = arguments[2] == std::string("1");
    Server server(connector, first_version ? JSONRPC_SERVER_V1 : JSONRPC_SERVER_V2);
    if (!server.StartListening()) {
        std::cerr << "cannot listen on " << arguments[1] << std::endl;
        return 1;
    }
    std::cout << "listening on " << arguments[1] << std::endl;
    for (;;)
        pause();
}
