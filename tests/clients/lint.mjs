// What Redocly's recommended rules and Spectral's oas find in the documents named, a line each.
import { createConfig, lint } from "@redocly/openapi-core";
import core from "@stoplight/spectral-core";
import parsers from "@stoplight/spectral-parsers";
import rulesets from "@stoplight/spectral-rulesets";
import { readFileSync } from "node:fs";

const config = await createConfig({ extends: ["recommended"] });
const spectral = new core.Spectral();
spectral.setRuleset({ extends: [rulesets.oas] });

for (const file of process.argv.slice(2)) {
  for (const { ruleId, location } of await lint({ ref: file, config })) {
    console.log("redocly", ruleId, location[0].pointer);
  }
  const document = new core.Document(readFileSync(file, "utf-8"), parsers.Json, file);
  for (const { code, path } of await spectral.run(document)) {
    console.log("spectral", code, path.join("."));
  }
}
