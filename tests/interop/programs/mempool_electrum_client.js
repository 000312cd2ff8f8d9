// Call a server with @mempool/electrum-client: mempool_electrum_client.js PORT.
//
// Each line of the input is an array, one of the client's functions and its arguments; what comes
// of it is printed, {"result": …} or {"error": …}. The first line is what the server says of itself.
// Notifications of blockchain.headers.subscribe are printed as {"notified": …}.
const readline = require('node:readline');
const ElectrumClient = require('@mempool/electrum-client');

const print = (outcome) => console.log(JSON.stringify(outcome));

async function main() {
  const client = new ElectrumClient(Number(process.argv[2]), '127.0.0.1', 'tcp');
  client.subscribe.on('blockchain.headers.subscribe', (params) => print({ notified: params }));
  await client.initElectrum({ client: 'interop', version: '1.4' });
  print(client.versionInfo);
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const [name, ...args] = JSON.parse(line);
    try {
      print({ result: await client[name](...args) });
    } catch (error) {
      print({ error });
    }
  }
  client.close();
}

main();
