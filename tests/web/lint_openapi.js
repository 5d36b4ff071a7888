// lint_openapi.js FILE - Redocly's strictest recommended rules; exits 1 and names every problem.

'use strict';

const fs = require('fs');
const { createConfig, lintFromString } = require('@redocly/openapi-core');

async function main(file) {
  const config = await createConfig({ extends: ['recommended-strict'] });
  const problems = await lintFromString({ source: fs.readFileSync(file, 'utf8'), absoluteRef: file, config });
  for (const p of problems) console.log(`${p.severity} ${p.ruleId} ${p.location[0].pointer}: ${p.message}`);
  process.exit(problems.length > 0 ? 1 : 0);
}

main(process.argv[2]);
