// Puts the FHIR packages that npm installed where SUSHI looks for them: $HOME/.fhir/packages.
//   HOME=somewhere node link-packages.mjs
import { mkdirSync, readFileSync, readdirSync, rmSync, symlinkSync } from "node:fs";
import { homedir } from "node:os";
import { join, resolve } from "node:path";

for (const name of readdirSync("node_modules").filter((one) => one.startsWith("hl7."))) {
  const { version } = JSON.parse(readFileSync(join("node_modules", name, "package.json")));
  const folder = join(homedir(), ".fhir", "packages", `${name}#${version}`);
  mkdirSync(folder, { recursive: true });
  rmSync(join(folder, "package"), { recursive: true, force: true });
  symlinkSync(resolve("node_modules", name), join(folder, "package"), "dir");
}
