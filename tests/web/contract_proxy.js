// contract_proxy.js - stands between a client and the daemon, and checks both against /openapi.json.
//
//   node contract_proxy.js --listen PORT|unix:PATH --to PORT|unix:PATH --report FILE
//
// Requests, answers and WebSockets pass through unchanged, the Host header included. Every breach of
// the contract becomes a line of FILE at once. On SIGTERM it prints one line a counter: exchanges,
// frames, violations, and how often each operation was seen with which status.

'use strict';

const fs = require('fs');
const http = require('http');
const { Contract } = require('./contract.js');

const MAX_FRAME = 16 * 1024 * 1024;

function options(argv) {
  const out = {};
  for (let i = 0; i < argv.length; i += 2) out[argv[i].replace(/^--/, '')] = argv[i + 1];
  return out;
}

// Where to listen or connect, as node takes it.
function place(text) {
  return text.startsWith('unix:') ? { path: text.slice(5) } : { host: '127.0.0.1', port: Number(text) };
}

function upstream(to) {
  return to.path ? { socketPath: to.path } : to;
}

const o = options(process.argv.slice(2));
const to = place(o.to);
const counts = { exchanges: 0, frames: 0, violations: 0 };
let contract;

function report(what, wrong) {
  for (const w of wrong) {
    counts.violations++;
    fs.appendFileSync(o.report, `${what}: ${w}\n`);
  }
}

function collect(stream, done) {
  const parts = [];
  let ended = false;
  const end = () => {
    if (!ended) done(Buffer.concat(parts));
    ended = true;
  };
  stream.on('data', (chunk) => parts.push(chunk));
  stream.on('end', end);
  stream.on('error', end);
}

// The document, asked for once.
function learn() {
  return contract || (contract = new Promise((resolve, reject) => {
    const request = http.get({ ...upstream(to), path: '/openapi.json' }, (answer) =>
      collect(answer, (body) => {
        try {
          resolve(new Contract(JSON.parse(body)));
        } catch (e) {
          reject(e);
        }
      }));
    request.on('error', reject);
  }).catch((e) => {
    contract = undefined;
    throw e;
  }));
}

function check(request, answer) {
  counts.exchanges++;
  return learn().then(
    (c) => report(`${request.method} ${request.target} -> ${answer.status}`, c.exchange(request, answer)),
    (e) => report('GET /openapi.json', [e.message]));
}

// ---- requests ----

function forward(request, body, response) {
  const out = http.request({ ...upstream(to), method: request.method, path: request.url,
    headers: request.headers, setHost: false, agent: false });
  let answered = false;
  out.on('response', (answer) => {
    answered = true;
    collect(answer, (payload) => {
      check({ method: request.method, target: request.url, body: body.toString() },
        { status: answer.statusCode, headers: answer.headers, body: payload.toString() }).then(() => {
        response.writeHead(answer.statusCode, answer.headers);
        response.end(payload);
      });
    });
  });
  out.on('error', () => { // the daemon is away: the client shall see what it would have seen
    if (!answered) response.socket.destroy();
  });
  response.on('close', () => out.destroy());
  out.end(body);
}

function serve(request, response) {
  collect(request, (body) => forward(request, body, response));
}

// ---- WebSockets ----

// Calls visit(text) for every text message that a server sends; RFC 6455 section 5.2.
function frames(visit) {
  let rest = Buffer.alloc(0);
  let message = [];
  return (chunk) => {
    rest = Buffer.concat([rest, chunk]);
    for (;;) {
      if (rest.length < 2) return;
      const opcode = rest[0] & 15;
      let size = rest[1] & 127;
      let at = 2;
      if (size === 126) {
        if (rest.length < 4) return;
        size = rest.readUInt16BE(2);
        at = 4;
      } else if (size === 127) {
        if (rest.length < 10) return;
        size = Number(rest.readBigUInt64BE(2));
        at = 10;
      }
      if (size > MAX_FRAME || rest.length < at + size) return;
      if (opcode < 8) message.push(rest.subarray(at, at + size));
      if (opcode < 8 && rest[0] & 128) {
        visit(Buffer.concat(message).toString());
        message = [];
      }
      rest = rest.subarray(at + size);
    }
  };
}

function head(status, headers) {
  let text = `HTTP/1.1 ${status} ${http.STATUS_CODES[status]}\r\n`;
  for (let i = 0; i < headers.length; i += 2) text += `${headers[i]}: ${headers[i + 1]}\r\n`;
  return text + '\r\n';
}

function join(request, client, server) {
  const tap = frames((text) => {
    counts.frames++;
    learn().then((c) => report(`frame of ${request.url}`, c.frame(request.url, text)), () => {});
  });
  server.on('data', tap);
  server.pipe(client);
  client.pipe(server);
  for (const [one, other] of [[client, server], [server, client]]) {
    one.on('error', () => other.destroy());
    one.on('close', () => other.destroy());
  }
}

function upgrade(request, client, early) {
  const out = http.request({ ...upstream(to), method: request.method, path: request.url,
    headers: request.headers, setHost: false, agent: false });
  client.on('error', () => out.destroy());
  out.on('upgrade', (answer, server, first) => {
    client.write(head(101, answer.rawHeaders));
    counts.exchanges++;
    if (early.length) server.write(early);
    if (first.length) server.unshift(first);
    join(request, client, server);
  });
  out.on('response', (answer) => collect(answer, (payload) => {
    check({ method: 'GET', target: request.url, body: '' },
      { status: answer.statusCode, headers: answer.headers, body: payload.toString() }).then(() => {
      client.end(head(answer.statusCode, answer.rawHeaders) + payload.toString());
    });
  }));
  out.on('error', () => client.destroy());
  out.end();
}

// ---- the whole ----

fs.writeFileSync(o.report, '');
const server = http.createServer({ keepAliveTimeout: 60000, requestTimeout: 0 }, serve);
server.on('upgrade', upgrade);
server.listen(place(o.listen), () => console.log('listening'));

process.on('SIGTERM', async () => {
  const c = contract && await contract.catch(() => undefined);
  for (const [name, value] of Object.entries(counts)) console.log(`${name} ${value}`);
  for (const [name, value] of Object.entries(c ? c.seen : {}).sort()) console.log(`seen ${name} ${value}`);
  for (const name of c ? c.operations : []) console.log(`operation ${name}`);
  process.exit(0);
});
