// age_rounds.js - round trips between `ndctl crypt` and the other implementations of the age format.
//
//   node age_rounds.js NDCTL DIR ROUNDS    DIR has node_modules; prints a line for each direction:
//                                          "ndctl to age: N right"; exit status 1 if any was wrong
//
// Sizes, armor and the number of recipients change from round to round; each tool has made the keys
// of half of them. What is read by somebody else is compared byte by byte.

'use strict';

const { spawnSync } = require('child_process');
const { randomBytes, webcrypto } = require('crypto');
const fs = require('fs');
const os = require('os');
const path = require('path');
const { pathToFileURL } = require('url');

globalThis.crypto ??= webcrypto; // Node 18
const [ndctl, dir, rounds] = process.argv.slice(2);
const CHUNK = 65536;
const sizes = [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 10 * 1024 * 1024];
const noise = randomBytes(sizes[5] + 256);
const work = fs.mkdtempSync(path.join(fs.existsSync('/dev/shm') ? '/dev/shm' : os.tmpdir(), 'nd-age-'));
process.on('exit', () => fs.rmSync(work, { recursive: true, force: true }));

function run(argv, input) {
  const r = spawnSync(argv[0], argv.slice(1), { input, maxBuffer: 1 << 28 });
  if (r.status !== 0) throw new Error(`${argv.join(' ').slice(0, 120)}: ${r.stderr}`);
  return r.stdout;
}

// Twenty identities, each in a file of its own: {identity, recipient, file}
function keys() {
  const list = [];
  for (let i = 0; i < 20; i++) {
    const text = run(i % 2 ? [ndctl, 'crypt', 'keygen'] : ['age-keygen']).toString();
    const file = path.join(work, `key${i}`);
    fs.writeFileSync(file, text);
    list.push({ file, identity: text.match(/AGE-SECRET-KEY-1\S+/)[0], recipient: text.match(/age1\S+/)[0] });
  }
  return list;
}

const tool = (argv, flag) => ({
  encrypt: (to, plain, armor) =>
    run([...argv, ...flag, ...(armor ? ['-a'] : []), ...to.flatMap((k) => ['-r', k.recipient])], plain),
  decrypt: (key, text) => run([...argv, ...(flag.length ? ['decrypt'] : ['-d']), '-i', key.file], text),
});

const library = (age) => ({
  async encrypt(to, plain, armor) {
    const e = new age.Encrypter();
    for (const k of to) e.addRecipient(k.recipient);
    const text = await e.encrypt(plain);
    return armor ? Buffer.from(age.armor.encode(text)) : Buffer.from(text);
  },
  async decrypt(key, text) {
    const d = new age.Decrypter();
    d.addIdentity(key.identity);
    return Buffer.from(await d.decrypt(text[0] === 45 ? age.armor.decode(text.toString()) : text));
  },
});

async function main() {
  const age = await import(pathToFileURL(path.join(dir, 'node_modules/age-encryption/dist/index.js')));
  const known = keys();
  const ours = tool([ndctl, 'crypt'], ['encrypt']);
  const others = { age: tool(['age'], []), 'age-encryption': library(age) };
  let wrong = 0;
  for (const [name, other] of Object.entries(others)) {
    for (const [title, from, to] of [[`ndctl to ${name}`, ours, other], [`${name} to ndctl`, other, ours]]) {
      let right = 0;
      for (let i = 0; i < rounds; i++) {
        const plain = noise.subarray(i % 256, (i % 256) + sizes[i % sizes.length]);
        const many = i % 4 === 3;
        const key = known[i % 20];
        try {
          const text = await from.encrypt(many ? known : [key], plain, i % 5 === 0);
          if (plain.equals(await to.decrypt(key, text))) right++;
          else console.log(`wrong: ${title}, ${plain.length} bytes: another text came out`);
        } catch (e) {
          console.log(`wrong: ${title}, ${plain.length} bytes: ${e.message}`);
        }
      }
      wrong += rounds - right;
      console.log(`${title}: ${right} right`);
    }
  }
  process.exitCode = wrong ? 1 : 0;
}

main();
