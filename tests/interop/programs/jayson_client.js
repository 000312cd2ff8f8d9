// Call a server with jayson's TCP client: jayson_client.js PORT.
//
// Each line of the input is a call, {"method": …, "params": …}, a notification, the same with
// "notify": true, or a batch, an array of these. What jayson makes of it is printed: {"problem": …},
// {"response": …} or, where nothing comes back, {}.
const readline = require('node:readline');
const jayson = require('jayson');

const client = jayson.client.tcp({ host: '127.0.0.1', port: Number(process.argv[2]) });

// What jayson calls with an id of null is a notification; "false" has it give the request.
const requestOf = ({ method, params, notify }) =>
  client.request(method, params, notify ? null : undefined, false);

function outcomeOf(call) {
  return new Promise((resolve) => {
    const take = (problem, response) =>
      resolve(problem ? { problem: problem.message } : { response });
    if (Array.isArray(call)) {
      client.request(call.map(requestOf), take);
    } else {
      client.request(call.method, call.params, call.notify ? null : undefined, take);
    }
  });
}

async function main() {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    console.log(JSON.stringify(await outcomeOf(JSON.parse(line))));
  }
}

main();
