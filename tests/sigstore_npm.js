// Signs or verifies with the unmodified npm packages; values come as JSON on standard input.
//   node sigstore_npm.js sign message|dsse   {fulcio, tsa, rekor, token, data} -> the bundle
//   node sigstore_npm.js verify              {root, bundle, data, key} -> exit status 0, or 1 and why
// With a key (PEM), which its caller trusts, no certificate, CT log or timestamp is asked for.
'use strict';
const { bundleFromJSON, bundleToJSON } = require('@sigstore/bundle');
const { TrustedRoot } = require('@sigstore/protobuf-specs');
const { createPublicKey } = require('crypto');
const sign = require('@sigstore/sign');
const { Verifier, toSignedEntity, toTrustMaterial } = require('@sigstore/verify');

async function signed(what, values) {
  const signer = new sign.FulcioSigner({
    fulcioBaseURL: values.fulcio,
    identityProvider: { getToken: async () => values.token },
  });
  const witnesses = [
    new sign.RekorWitness({ rekorBaseURL: values.rekor, majorApiVersion: 2, entryType: 'dsse' }),
    new sign.TSAWitness({ tsaBaseURL: values.tsa }),
  ];
  const builder =
    what === 'dsse'
      ? new sign.DSSEBundleBuilder({ signer, witnesses })
      : new sign.MessageSignatureBundleBuilder({ signer, witnesses });
  const data = Buffer.from(values.data, 'base64');
  const bundle = await builder.create(what === 'dsse' ? { data, type: 'text/plain' } : { data });
  process.stdout.write(JSON.stringify(bundleToJSON(bundle)));
}

async function verified(values) {
  const bundle = bundleFromJSON(values.bundle);
  const data = bundle.content.$case === 'messageSignature' ? Buffer.from(values.data, 'base64') : undefined;
  const root = TrustedRoot.fromJSON(values.root);
  const verifier = values.key
    ? new Verifier(toTrustMaterial(root, () => ({ publicKey: createPublicKey(values.key), validFor: () => true })), {
        ctlogThreshold: 0,
        timestampThreshold: 0,
      })
    : new Verifier(toTrustMaterial(root));
  verifier.verify(toSignedEntity(bundle, data));
}

async function main() {
  const chunks = [];
  for await (const chunk of process.stdin) chunks.push(chunk);
  const values = JSON.parse(Buffer.concat(chunks).toString());
  const [command, what] = process.argv.slice(2);
  await (command === 'sign' ? signed(what, values) : verified(values));
}

main().catch((error) => {
  console.error(error);
  process.exitCode = 1;
});
