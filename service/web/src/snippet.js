// The same request as a command or a program, for those who go on without the page.

export const asCurl = (path, body) =>
  `curl -s ${location.origin}${path} -H 'Content-Type: application/json' -d '${JSON.stringify(body).replaceAll("'", "'\\''")}'`;

// JSON and Python differ in three words, and none of them occurs inside the values of these requests.
const literal = (body) => JSON.stringify(body, null, 4).replace(/\bnull\b/g, "None").replace(/\btrue\b/g, "True").replace(/\bfalse\b/g, "False");

export const asPython = (path, body) =>
  `import httpx

answer = httpx.post("${location.origin}${path}", json=${literal(body)}, timeout=None)
answer.raise_for_status()
for molecule in answer.json()["molecules"]:
    print(molecule["formula"], molecule["smiles"], molecule["valid"])
`;
