// Call a server over libjson-rpc-cpp's Unix socket client: client SOCKET 1|2.
//
// Each line of the input is a call, {"method": …, "params": …}, a notification, the same with
// "notify": true, or a batch, an array of calls. Its outcome is printed: {"result": …}, {"code": …,
// "message": …} or, of a notification, {}.

#include <iostream>
#include <stdexcept>
#include <string>

#include <jsonrpccpp/client.h>
#include <jsonrpccpp/client/connectors/unixdomainsocketclient.h>

using namespace jsonrpc;

static Json::Value outcome_of_batch(Client &client, const Json::Value &calls)
{
    BatchCall batch;
    std::vector<int> ids;
    for (const Json::Value &call : calls)
        ids.push_back(batch.addCall(call["method"].asString(), call["params"]));
    BatchResponse response = client.CallProcedures(batch);
    Json::Value outcomes(Json::arrayValue);
    for (int number : ids) {
        Json::Value id(number), outcome;
        if (response.getErrorCode(id) == 0) {
            outcome["result"] = response.getResult(id);
        } else {
            outcome["code"] = response.getErrorCode(id);
            outcome["message"] = response.getErrorMessage(id);
        }
        outcomes.append(outcome);
    }
    return outcomes;
}

static Json::Value outcome_of(Client &client, const Json::Value &call)
{
    Json::Value outcome(Json::objectValue);
    try {
        if (call.isArray())
            return outcome_of_batch(client, call);
        if (call["notify"].asBool())
            client.CallNotification(call["method"].asString(), call["params"]);
        else
            outcome["result"] = client.CallMethod(call["method"].asString(), call["params"]);
    } catch (const JsonRpcException &problem) {
        outcome["code"] = problem.GetCode();
        outcome["message"] = problem.GetMessage();
    }
    return outcome;
}

int main(int, char **arguments)
{
    UnixDomainSocketClient connector(arguments[1]);
    bool first_version = arguments[2] == std::string("1");
    Client client(connector, first_version ? JSONRPC_CLIENT_V1 : JSONRPC_CLIENT_V2);
    Json::Reader reader;
    Json::FastWriter writer;
    for (std::string line; std::getline(std::cin, line);) {
        Json::Value call;
        if (!reader.parse(line, call))
            throw std::invalid_argument(line);
        std::cout << writer.write(outcome_of(client, call)) << std::flush;
    }
}
