// Holds dashboards against Grafana's published types, and expressions against the grammars of PromQL and
// LogQL. Arguments: the folder that has node_modules, then dashboards (.json) and pages (.md).
import fs from 'node:fs';
import path from 'node:path';
import {createRequire} from 'node:module';
import {pathToFileURL} from 'node:url';

const [modules, ...files] = process.argv.slice(2);
const load = name => import(pathToFileURL(createRequire(path.resolve(modules, 'x.js')).resolve(name)).href);
const {createGenerator} = await load('ts-json-schema-generator');
const Ajv = (await load('ajv')).default;
const {parser: promql} = await load('@prometheus-io/lezer-promql');
const {parser: logql} = await load('@grafana/lezer-logql');

const types = path.resolve(modules, 'node_modules/@grafana/schema/dist/esm/raw');
const ajv = new (Ajv.default ?? Ajv)({allErrors: true, strict: false});
const compiled = (file, type) => ajv.compile(
  createGenerator({path: file, type, skipTypeCheck: true, additionalProperties: false, expose: 'all'}).createSchema(type));
const dashboard = compiled(path.join(types, 'dashboard/x/dashboard_types.gen.d.ts'), 'Dashboard');
const kinds = ['timeseries', 'gauge', 'stat', 'bargauge', 'table', 'logs', 'heatmap', 'state-timeline'];
const options = Object.fromEntries(kinds.map(kind => {
  const folder = path.join(types, 'composable', kind.replace('-', ''), 'panelcfg/x');
  return [kind, compiled(path.join(folder, fs.readdirSync(folder).find(name => name.endsWith('.d.ts'))), 'Options')];
}));

// What a Prometheus annotation has beyond the fields of every annotation.
const ANNOTATION = ['expr', 'step', 'titleFormat', 'textFormat', 'useValueForTime'];
const VARIABLES = {$__rate_interval: '1m', $__range: '1h', $__interval: '1m', $job: 'j', $instance: '.*'};
let faults = 0;
const counts = {dashboards: 0, panels: 0, promql: 0, logql: 0};
const fault = (...what) => { faults++; console.error(...what); };

function grammar(kind, text, where) {
  counts[kind]++;
  for (const [name, value] of Object.entries(VARIABLES)) text = text.replaceAll(name, value);
  let wrong = false;
  (kind === 'logql' ? logql : promql).parse(text).iterate({enter: node => { wrong ||= node.type.isError; }});
  if (wrong) fault(where, `is no ${kind}:`, text);
}

for (const file of files) {
  const text = fs.readFileSync(file, 'utf8');
  if (file.endsWith('.md')) {
    for (const [, kind, block] of text.matchAll(/```(logql|promql)\n([\s\S]*?)```/g))
      for (const part of block.split('\n\n')) {
        const query = part.split('\n').filter(line => !line.startsWith('#')).join('\n').trim();
        if (query) grammar(kind, query, file);
      }
    continue;
  }
  const board = JSON.parse(text);
  counts.dashboards++;
  for (const panel of board.panels) {
    counts.panels++;
    if (!options[panel.type](panel.options)) fault(file, panel.title, JSON.stringify(options[panel.type].errors));
    for (const target of panel.targets) grammar(target.datasource.type === 'loki' ? 'logql' : 'promql', target.expr, panel.title);
  }
  for (const annotation of board.annotations.list) {
    grammar('promql', annotation.expr, annotation.name);
    for (const name of ANNOTATION) delete annotation[name];
  }
  // Grafana writes it beside the query, and its types do not have it.
  for (const variable of board.templating.list) delete variable.definition;
  if (!dashboard(board)) fault(file, JSON.stringify(dashboard.errors.slice(0, 5)));
}
console.log(`  ${counts.dashboards} dashboards and ${counts.panels} panels as Grafana's types have them; by their grammars `
  + `${counts.promql} PromQL and ${counts.logql} LogQL expressions`);
process.exit(faults ? 1 : 0);
