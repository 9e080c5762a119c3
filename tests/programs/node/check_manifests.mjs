// Compares Kubernetes manifests, an array of them on standard input, with published schemas and types:
//
//   node check_manifests.mjs DIRECTORY < manifests.json      DIRECTORY has node_modules with kubernetes-models and typescript
//
// The schemas know values, and pass unknown names over; the compiler knows names. Prints an array with an array of faults for each.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join, resolve } from "node:path";
import { pathToFileURL } from "node:url";

const directory = resolve(process.argv[2]);
const ts = createRequire(join(directory, "package.json"))("typescript");
const manifests = JSON.parse(readFileSync(0, "utf8"));

/** The module of a manifest's kind. */
function moduleOf({ apiVersion, kind }) {
  const [group, version] = apiVersion.includes("/") ? apiVersion.split("/") : ["", apiVersion];
  const models = group.endsWith(".coreos.com") ? "@kubernetes-models/prometheus-operator" : "kubernetes-models";
  return [models, group, version, kind].filter(Boolean).join("/");
}

async function schemaFaults(manifest) {
  try {
    const model = await import(pathToFileURL(join(directory, "node_modules", `${moduleOf(manifest)}.js`)));
    new model[manifest.kind](manifest).validate();
    return [];
  } catch (error) {
    return [error.message];
  }
}

const options = { strict: true, noEmit: true, skipLibCheck: true, types: [], target: ts.ScriptTarget.ES2022, module: ts.ModuleKind.ESNext, moduleResolution: ts.ModuleResolutionKind.Bundler };
const files = new Map(manifests.map((manifest, index) => {
  const type = `I${manifest.kind}`;
  const text = `import type { ${type} } from ${JSON.stringify(moduleOf(manifest))};\nexport const manifest: ${type} = ${JSON.stringify(manifest)};`;
  const path = join(directory, `manifest-${index}.ts`);
  return [path, ts.createSourceFile(path, text, ts.ScriptTarget.ES2022)];
}));
const host = ts.createCompilerHost(options);
const { getSourceFile, fileExists } = host;
host.getSourceFile = (path, ...more) => files.get(path) ?? getSourceFile(path, ...more);
host.fileExists = (path) => files.has(path) || fileExists(path);
const program = ts.createProgram([...files.keys()], options, host);
const typeFaults = [...files.values()].map((source) => ts.getPreEmitDiagnostics(program, source).map((fault) => ts.flattenDiagnosticMessageText(fault.messageText, " ")));
const faults = await Promise.all(manifests.map(async (manifest, index) => [...await schemaFaults(manifest), ...typeFaults[index]]));
console.log(JSON.stringify(faults));
