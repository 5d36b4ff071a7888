// contract.js - holds requests and answers against an OpenAPI document.
//
//   new Contract(document)
//   .exchange({method, target, body}, {status, headers, body}) -> [what breaks the contract]
//   .frame(method, target, text) -> [the same, for a WebSocket's frame]
//   .seen: {"operationId status": count}, .operations: [operationId]
//
// Both sides are held to it: an answer must be as documented, unlisted fields and statuses included,
// and a request that the document refuses must not be answered as if it were fine.

'use strict';

const Ajv = require('ajv').default;
const addFormats = require('ajv-formats').default;

const METHODS = ['get', 'put', 'post', 'delete', 'patch'];

// A copy with absolute references, in which objects have the listed fields only.
function tighten(schema) {
  if (Array.isArray(schema)) return schema.map(tighten);
  if (schema === null || typeof schema !== 'object') return schema;
  const out = {};
  for (const [name, value] of Object.entries(schema)) {
    if (name === 'example' || name === 'enum' || name === 'required') out[name] = value;
    else if (name === '$ref') out.$ref = value.replace(/^#/, 'api#');
    else out[name] = tighten(value);
  }
  if (out.properties && out.additionalProperties === undefined && out.type === 'object') {
    out.additionalProperties = false;
  }
  return out;
}

// "/apps/{app}" as a regular expression.
function pattern(path) {
  return new RegExp('^' + path.replace(/[.*+?^$()|[\]\\]/g, '\\$&').replace(/{\w+}/g, '[^/]+') + '$');
}

class Contract {
  constructor(document) {
    this.document = document;
    this.ajv = new Ajv({ strict: false, allErrors: true });
    this.loose = new Ajv({ strict: false, allErrors: true, coerceTypes: true });
    for (const ajv of [this.ajv, this.loose]) {
      addFormats(ajv);
      ajv.addSchema({ $id: 'api', components: { schemas: tighten(document.components.schemas) } });
    }
    this.compiled = new Map();
    this.seen = {};
    this.paths = Object.entries(document.paths).map(([path, item]) => ({ path, item, re: pattern(path) }));
    this.operations = this.paths.flatMap(({ item }) =>
      METHODS.filter((m) => item[m]).map((m) => item[m].operationId));
  }

  validate(schema, value, where, ajv = this.ajv) {
    const key = (ajv === this.ajv ? '' : '~') + JSON.stringify(schema);
    let check = this.compiled.get(key);
    if (!check) this.compiled.set(key, check = ajv.compile(tighten(schema)));
    if (check(value)) return [];
    const all = check.errors.map((e) =>
      `${where}${e.instancePath} ${e.message}${e.params.additionalProperty ? ` (${e.params.additionalProperty})` : ''}`);
    return [...new Set(all)].slice(0, 6);
  }

  find(target) {
    const path = target.split('?')[0];
    return this.paths.find(({ re }) => re.test(path));
  }

  // What is wrong with the request, by the document.
  request(operation, target, body) {
    const url = new URL(target, 'http://localhost');
    const wrong = [];
    const known = (operation.parameters || []).filter((p) => p.in === 'query');
    for (const name of new Set(url.searchParams.keys())) {
      const parameter = known.find((p) => p.name === name);
      if (!parameter) wrong.push(`query: ${name} is not documented`);
      else wrong.push(...this.validate({ type: 'object', properties: { v: parameter.schema } },
        { v: url.searchParams.getAll(name).pop() }, 'query.' + name, this.loose));
    }
    for (const p of known) {
      if (p.required && !url.searchParams.has(p.name)) wrong.push(`query: ${p.name} is missing`);
    }
    if (!operation.requestBody) return wrong;
    try {
      const schema = operation.requestBody.content['application/json'].schema;
      wrong.push(...this.validate(schema, JSON.parse(body), 'body'));
    } catch (e) {
      wrong.push(`body: ${e.message}`);
    }
    return wrong;
  }

  response(operation, answer) {
    let documented = operation.responses[answer.status];
    if (!documented) return [`the status ${answer.status} is not documented for ${operation.operationId}`];
    if (documented.$ref) documented = this.document.components.responses[documented.$ref.split('/').pop()];
    if (!documented.content) return [];
    const type = (answer.headers['content-type'] || '').split(';')[0];
    if (type !== 'application/json' && documented.content[type]) return []; // another form it has
    return this.json(answer, documented.content['application/json'].schema);
  }

  json(answer, schema) {
    if (!/^application\/json\b/.test(answer.headers['content-type'] || '')) {
      return [`the content type is ${answer.headers['content-type']}`];
    }
    try {
      return this.validate(schema, JSON.parse(answer.body), 'answer');
    } catch (e) {
      return [`answer: ${e.message}`];
    }
  }

  // Beyond any operation: unknown paths and methods, OPTIONS, and the test endpoints.
  outside(method, found, answer) {
    if (method === 'OPTIONS') {
      return answer.status === 204 || answer.status >= 400 ? [] : [`OPTIONS was answered ${answer.status}`];
    }
    if (answer.status < 400) return [`${method} is not documented, and was answered ${answer.status}`];
    const wrong = this.json(answer, { $ref: '#/components/schemas/Error' });
    if (answer.status === 405 && !answer.headers.allow) wrong.push('405 without Allow');
    if (!found && ![401, 403, 404, 501].includes(answer.status)) wrong.push(`an unknown path was answered ${answer.status}`);
    return wrong;
  }

  exchange(request, answer) {
    if (request.target.startsWith('/_test/')) return [];
    const found = this.find(request.target);
    const head = request.method === 'HEAD';
    const operation = found && found.item[head ? 'get' : request.method.toLowerCase()];
    if (!operation) return this.outside(request.method, found, answer);
    if (head) return answer.body === '' ? [] : ['HEAD was answered with a body'];
    const key = `${operation.operationId} ${answer.status}`;
    this.seen[key] = (this.seen[key] || 0) + 1;
    const wrong = this.response(operation, answer);
    if (answer.status >= 500 && answer.status !== 502 && answer.status !== 504) wrong.push(`status ${answer.status}`);
    if (answer.status === 401 && !answer.headers['www-authenticate']) wrong.push('401 without WWW-Authenticate');
    if (answer.status < 400) {
      wrong.push(...this.request(operation, request.target, request.body).map((w) => `accepted although ${w}`));
    }
    return wrong;
  }

  frame(target, text) {
    const found = this.find(target);
    const operation = found && found.item.get;
    if (!operation || !operation['x-frames']) return [];
    const key = `${operation.operationId} frame`;
    this.seen[key] = (this.seen[key] || 0) + 1;
    try {
      const value = JSON.parse(text);
      return (Array.isArray(value) ? value : [value]).flatMap((v) =>
        this.validate(operation['x-frames'], v, 'frame'));
    } catch (e) {
      return [`frame: ${e.message}`];
    }
  }
}

module.exports = { Contract };
