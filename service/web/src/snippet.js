// The request of the page as a shell command or a Python program.
import { address } from "./api.js";

const TYPES = { xyz: "chemical/x-xyz", json: "application/json" };

// JSON and Python differ in three words, and none of them occurs inside the values of these requests.
const literal = (body) => JSON.stringify(body, null, 4).replace(/\bnull\b/g, "None").replace(/\btrue\b/g, "True").replace(/\bfalse\b/g, "False");

/** The request for molecules; with `scorer`, the options of a second request, they are saved and scored by it. */
export function asCurl(body, scorer = null) {
  const sample = `curl -s ${address("/sample")} -H 'Content-Type: ${TYPES.json}' -d '${JSON.stringify(body)}'`;
  if (!scorer) return sample;
  const score = `'${address("/likelihood")}?${new URLSearchParams(scorer)}'`;
  return `${sample} -H 'Accept: ${TYPES.xyz}' -o molecules.xyz\ncurl -s ${score} -H 'Content-Type: ${TYPES.xyz}' --data-binary @molecules.xyz`;
}

export function asPython(body, scorer = null) {
  const head = `import httpx

answer = httpx.post("${address("/sample")}", json=${literal(body)}, timeout=None)
molecules = answer.raise_for_status().json()["molecules"]
`;
  if (!scorer) return `${head}for molecule in molecules:\n    print(molecule.get("formula"), molecule.get("smiles"), molecule.get("energy"), molecule.get("nll"))\n`;
  return `${head}structures = [{"format": "xyz", "data": molecule["xyz"]} for molecule in molecules]
options = ${literal(scorer)}
answer = httpx.post("${address("/likelihood")}", json={"structures": structures, **options}, timeout=None)
for molecule, score in zip(molecules, answer.raise_for_status().json()["results"]):
    print(molecule["formula"], molecule["smiles"], molecule["valid"], score.get("nll"), score.get("std_error"))
`;
}
