// age_vectors.js - the vectors of the age suite (C2SP CCTV, as npm's cctv-age has them) through
// `ndctl crypt decrypt`.
//
//   node age_vectors.js NDCTL DIR    DIR has node_modules; prints "KIND: N vectors" for each kind,
//                                    a line for each vector that came out wrong; exit status 1 then
//
// Whatever a vector expects, stdout must be exactly the plaintext that may be released, by its hash.
// Those for passphrases and post-quantum identities have to be refused, with no byte on stdout.

'use strict';

const { spawnSync } = require('child_process');
const { createHash } = require('crypto');
const fs = require('fs');
const os = require('os');
const path = require('path');
const { pathToFileURL } = require('url');
const zlib = require('zlib');

const [ndctl, dir] = process.argv.slice(2);
const work = fs.mkdtempSync(path.join(os.tmpdir(), 'nd-age-'));
process.on('exit', () => fs.rmSync(work, { recursive: true, force: true }));

const cut = ['age_truncated'];
// What the codes of each kind are; then the vectors that say more exactly what is wrong.
const codes = {
  'no match': ['age_wrong_recipient'],
  'HMAC failure': ['age_tampered'],
  'header failure': ['age_bad_header'],
  'armor failure': ['age_bad_armor'],
  'payload failure': ['age_tampered', 'age_truncated'],
};
const exact = {
  armor_garbage_leading: ['age_bad_header'], // what comes first isn't armor: nobody said that it is
  armor_no_end_line: cut,
  stream_no_chunks: cut, stream_missing_tag: cut, stream_no_nonce: cut, stream_short_nonce: cut,
  stream_no_final_full: cut, stream_no_final_two_chunks_full: cut,
  version_unsupported: ['age_unsupported'],
};
const refused = ['age_unsupported', 'age_bad_header', 'age_wrong_recipient', 'age_bad_armor'];

function parse(name, bytes) {
  const data = Buffer.from(bytes);
  const end = data.indexOf('\n\n');
  const v = { name, identities: [], file: data.subarray(end + 2) };
  for (const line of data.subarray(0, end).toString().split('\n')) {
    const [, key, value] = line.match(/^([^:]+): (.*)$/);
    if (key === 'identity') v.identities.push(value);
    else v[key] = value;
  }
  if (v.compressed) v.file = zlib.inflateSync(v.file);
  return v;
}

// {status, code (undefined for success), stdout}
function decrypt(file, identities) {
  const keys = path.join(work, 'keys');
  fs.writeFileSync(keys, identities.join('\n') + '\n');
  const r = spawnSync(ndctl, ['crypt', 'decrypt', '--json', '-i', keys],
    { input: file, maxBuffer: 1 << 30, env: { PATH: process.env.PATH, LANG: 'C' } });
  if (r.status === 0) return { status: 0, stdout: r.stdout };
  const at = r.stdout.lastIndexOf('{\n  "code": ');
  return { status: r.status, code: JSON.parse(r.stdout.subarray(at).toString()).code, stdout: r.stdout.subarray(0, at) };
}

const sha256 = (data) => createHash('sha256').update(data).digest('hex');
const nothing = sha256('');

// Returns what is wrong, or undefined; `released` is the hash of what stdout has to be.
function check(got, wanted, released) {
  if (wanted === 'success') {
    if (got.status !== 0) return `refused: ${got.code}`;
  } else if (got.status === 0 || !wanted.includes(got.code)) {
    return `${got.code || 'decrypted'}, where ${wanted.join(' or ')} is right`;
  }
  if (sha256(got.stdout) !== released) return `${got.stdout.length} bytes that aren't its plaintext`;
}

async function main() {
  const vectors = await import(pathToFileURL(path.join(dir, 'node_modules/cctv-age/index.js')));
  const fresh = spawnSync(ndctl, ['crypt', 'keygen']).stdout.toString().match(/AGE-SECRET-KEY-1\S+/)[0];
  const counts = {};
  let wrong = 0;
  for (const name of Object.keys(vectors)) {
    const v = parse(name, vectors[name]);
    const x25519 = v.identities.filter((text) => text.startsWith('AGE-SECRET-KEY-1'));
    const tries = [];
    let kind = v.expect;
    if (x25519.length < v.identities.length) {
      kind = 'post-quantum, refused';
      tries.push([v.identities, ['age_unsupported'], nothing]);
      tries.push([x25519.length ? x25519 : [fresh], refused, nothing]);
    } else if (v.passphrase) {
      kind = 'passphrase, refused';
      tries.push([[fresh], refused, nothing]);
    } else {
      const wanted = kind === 'success' ? kind : exact[name] || codes[kind];
      tries.push([x25519.length ? x25519 : [fresh], wanted, v.payload || nothing]);
    }
    counts[kind] = (counts[kind] || 0) + 1;
    for (const [identities, wanted, released] of tries) {
      const fault = check(decrypt(v.file, identities), wanted, released);
      if (!fault) continue;
      wrong++;
      console.log(`wrong: ${name} (${v.expect}): ${fault}`);
    }
  }
  for (const kind of Object.keys(counts).sort()) console.log(`${kind}: ${counts[kind]} vectors`);
  process.exitCode = wrong || !counts.success ? 1 : 0;
}

main();
