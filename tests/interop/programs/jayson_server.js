// Serve with jayson's TCP server until killed.
const jayson = require('jayson');

let told = null;
const waiting = new Map();

const server = new jayson.Server({
  add: ([a, b], reply) => reply(null, a + b),
  subtract: ({ minuend, subtrahend }, reply) => reply(null, minuend - subtrahend),
  divide([a, b], reply) {
    if (b === 0) {
      reply({ code: -32050, message: 'Division by zero is not allowed', data: [a, b] });
    } else {
      reply(null, a / b);
    }
  },
  nothing: (params, reply) => reply(null, null),
  tell([what], reply) {
    told = what;
    reply(null, true);
  },
  lastTold: (params, reply) => reply(null, told),
  // Answered when the gate of that number is opened.
  pass: ([number], reply) => waiting.set(number, reply),
  open([number], reply) {
    waiting.get(number)(null, number);
    reply(null, number);
  },
});

const listener = server.tcp();
listener.listen(0, '127.0.0.1', () => console.log(`listening on ${listener.address().port}`));
