// Compares dashboards, an array of them on standard input, with the types that Grafana publishes:
//
//   node check_dashboard.mjs DIRECTORY < dashboards.json      DIRECTORY has node_modules with @grafana/schema and typescript
//
// Each dashboard is written as TypeScript literals of those types, so that the compiler finds what they do not know as well as
// what has another type. Prints an array with an array of faults for each dashboard.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join, resolve } from "node:path";

const directory = resolve(process.argv[2]);
const ts = createRequire(join(directory, "package.json"))("typescript");
const dashboards = JSON.parse(readFileSync(0, "utf8"));

/** The types of each kind of panel. A row has neither options nor fields. */
const PANELS = {
  heatmap: ["HeatmapPanelCfg", "Options", "FieldConfig"],
  stat: ["StatPanelCfg", "Options", null],
  statetimeline: ["StateTimelinePanelCfg", "Options", "FieldConfig"],
  table: ["TablePanelCfg", "Options", "FieldConfig"],
  timeseries: ["TimeSeriesPanelCfg", "Options", "FieldConfig"],
};

const DECLARATIONS = [
  'import type { AnnotationQuery, Dashboard, DataQuery, Panel, RowPanel, VariableModel } from "@grafana/schema";',
  ...Object.entries(PANELS).map(([kind, [module]]) =>
    `import type * as ${kind} from "@grafana/schema/dist/esm/raw/composable/${kind}/panelcfg/x/${module}_types.gen";`),
  // JSON has the values of enums, not their names.
  "type Plain<T> = T extends string ? `${T}` : T extends number ? number : T extends object ? { [K in keyof T]: Plain<T[K]> } : T;",
  // What the query editor and the data source of Prometheus add to every query.
  'type Query = DataQuery & { expr: string; legendFormat: string; editorMode: "code"; instant?: boolean; range?: boolean; format?: "time_series" | "table" | "heatmap" };',
  "type Annotation = AnnotationQuery & Record<'expr' | 'titleFormat' | 'textFormat' | 'tagKeys' | 'step', string> & { useValueForTime: boolean };",
];
const name = (title) => JSON.stringify(title ?? "").replaceAll("*/", "");

/** The lines of TypeScript that say the same as a dashboard. */
function written(dashboard) {
  const lines = [...DECLARATIONS];
  const hold = (type, value, title) => lines.push(`/* ${name(title)} */ export const _${lines.length}: ${type} = ${JSON.stringify(value)};`);
  const { panels, templating, annotations, ...rest } = dashboard;
  hold("Plain<Omit<Dashboard, 'panels' | 'templating' | 'annotations'>>", rest, "the dashboard");
  for (const annotation of annotations.list) hold("Plain<Annotation>", annotation, `annotation ${annotation.name}`);
  for (const variable of templating.list) hold("Plain<VariableModel>", variable, `variable ${variable.name}`);
  for (const panel of panels) {
    if (panel.type === "row") {
      hold("Plain<RowPanel>", panel, panel.title);
      continue;
    }
    const kind = panel.type.replace("-", "");
    if (!(kind in PANELS)) {
      throw new Error(`${name(panel.title)}: no types are known for panels of the type ${panel.type}`);
    }
    const { options, fieldConfig, targets, ...frame } = panel;
    const { custom, ...defaults } = fieldConfig.defaults;
    hold("Plain<Omit<Panel, 'options' | 'fieldConfig' | 'targets'>>", frame, panel.title);
    hold("Plain<NonNullable<Panel['fieldConfig']>>", { ...fieldConfig, defaults }, `${panel.title}, fields`);
    hold(`Plain<Partial<${kind}.Options>>`, options, `${panel.title}, options`);
    const fields = PANELS[kind][2];
    if (custom && fields) hold(`Plain<Partial<${kind}.${fields}>>`, custom, `${panel.title}, custom fields`);
    for (const target of targets) hold("Plain<Query>", target, `${panel.title}, query ${target.refId}`);
  }
  return lines;
}

const options = { strict: true, noEmit: true, skipLibCheck: true, types: [], target: ts.ScriptTarget.ES2022, module: ts.ModuleKind.ESNext, moduleResolution: ts.ModuleResolutionKind.Bundler };
const files = new Map(dashboards.map((dashboard, index) => {
  const [path, lines] = [join(directory, `dashboard-${index}.ts`), written(dashboard)];
  return [path, { lines, source: ts.createSourceFile(path, lines.join("\n"), ts.ScriptTarget.ES2022) }];
}));
const host = ts.createCompilerHost(options);
const { getSourceFile, fileExists } = host;
host.getSourceFile = (path, ...more) => files.get(path)?.source ?? getSourceFile(path, ...more);
host.fileExists = (path) => files.has(path) || fileExists(path);
const program = ts.createProgram([...files.keys()], options, host);
const faults = [...files.values()].map(({ lines, source }) => ts.getPreEmitDiagnostics(program, source).map((fault) => {
  const line = fault.file === source ? source.getLineAndCharacterOfPosition(fault.start).line : undefined;
  const where = line === undefined ? fault.file?.fileName : lines[line].match(/^\/\* (.*?) \*\//)?.[1];
  return `${where}: ${ts.flattenDiagnosticMessageText(fault.messageText, " ")}`;
}));
console.log(JSON.stringify(faults));
