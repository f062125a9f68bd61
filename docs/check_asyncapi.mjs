// Has the AsyncAPI project's own parser read schemas/asyncapi.yaml with all that it refers to: `make asyncapi`.
import fs from "node:fs";
import { createRequire } from "node:module";

const [modules, file] = process.argv.slice(2);
const { Parser } = createRequire(`${modules}/`)("@asyncapi/parser");
const { document, diagnostics } = await new Parser().parse(fs.readFileSync(file, "utf8"), { source: file });
for (const { message, path } of diagnostics) console.log(`${path.join(".")}: ${message}`);
if (!document || diagnostics.length > 0) process.exit(1);
console.log(`${file}: ${document.messages().length} messages, no complaint`);
