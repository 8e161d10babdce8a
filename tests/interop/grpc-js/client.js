// Follows the Workload API with @grpc/grpc-js and nothing but the API's description, and prints what it hears, one line an
// event: `set` is a message of the stream with every SVID in it, `ended` the end of the stream. On the word `fetch` in its
// input it asks anew, and prints `fetched` or `refused`; on `jwt AUDIENCE` it asks for tokens, and prints `tokens` or
// `refused`.
"use strict";

const { createPrivateKey, X509Certificate } = require("node:crypto");
const readline = require("node:readline");

const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const ANSWER_MAX_MS = 30000;

const [, , description, socket] = process.argv;
if (!socket) {
  console.error("usage: client.js <workload.proto> <socket>");
  process.exit(2);
}
const { SpiffeWorkloadAPI } = grpc.loadPackageDefinition(loader.loadSync(description, { keepCase: true }));
const client = new SpiffeWorkloadAPI(`unix:${socket}`, grpc.credentials.createInsecure());

function header() {
  const metadata = new grpc.Metadata();
  metadata.set("workload.spiffe.io", "true");
  return metadata;
}

// Certificates that stand one after the other, each as long as its first octets say (X.690, section 8.1.3).
function certificates(der) {
  const found = [];
  while (der.length > 0) {
    const octets = der[1] & 0x80 ? der[1] & 0x7f : 0;
    const length = octets === 0 ? 2 + der[1] : 2 + octets + der.readUIntBE(2, octets);
    found.push(new X509Certificate(der.subarray(0, length)));
    der = der.subarray(length);
  }
  return found;
}

// An SVID as a program would use it: the key fits, the chain leads to the bundle, and the name in it is the name beside it.
function isUsable(svid) {
  const chain = certificates(svid.x509_svid);
  const key = createPrivateKey({ key: svid.x509_svid_key, format: "der", type: "pkcs8" });
  const issuers = [...chain.slice(1), ...certificates(svid.bundle)];
  const signed = chain.every((certificate) => issuers.some((issuer) => certificate.verify(issuer.publicKey)));
  return chain[0].checkPrivateKey(key) && signed && chain[0].subjectAltName === `URI:${svid.spiffe_id}`;
}

function shown(svid) {
  return `${svid.spiffe_id}=${certificates(svid.x509_svid)[0].serialNumber.toLowerCase()}`;
}

function say(word, message) {
  for (const svid of message.svids) {
    if (!isUsable(svid)) {
      console.log("unusable", svid.spiffe_id);
    }
  }
  console.log([word, ...message.svids.map(shown).sort()].join(" "));
}

const refused = (error) => console.log("refused", grpc.status[error.code], error.details);

const stream = client.FetchX509SVID({}, header());
stream.on("data", (message) => say("set", message));
stream.on("error", (error) => console.log("ended", grpc.status[error.code], error.details));

function fetch() {
  const once = client.FetchX509SVID({}, header(), { deadline: Date.now() + ANSWER_MAX_MS });
  let answered = false;
  once.on("error", (error) => answered || refused(error));
  once.once("data", (message) => {
    answered = true;
    say("fetched", message);
    once.cancel();
  });
}

function tokens(audience) {
  const options = { deadline: Date.now() + ANSWER_MAX_MS };
  client.FetchJWTSVID({ audience: [audience] }, header(), options, (error, answer) => {
    if (error) {
      refused(error);
      return;
    }
    const claims = answer.svids.map((svid) => JSON.parse(Buffer.from(svid.svid.split(".")[1], "base64url")));
    console.log(["tokens", ...claims.map(({ sub, aud }) => `${sub}=${aud}`).sort()].join(" "));
  });
}

const words = readline.createInterface({ input: process.stdin });
words.on("line", (line) => {
  const [word, audience] = line.split(" ");
  if (word === "fetch") {
    fetch();
  } else if (word === "jwt") {
    tokens(audience);
  }
});
words.on("close", () => process.exit(0));
