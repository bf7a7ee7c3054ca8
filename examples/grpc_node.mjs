// Stream over gRPC in JavaScript, from the public .proto file, which is read at start.
import { fileURLToPath } from "node:url";

import grpc from "@grpc/grpc-js";
import protoLoader from "@grpc/proto-loader";

const server = process.env.ANTIPODE_GRPC ?? "localhost:9000";
const proto = fileURLToPath(new URL("../proto", import.meta.url));

const definition = protoLoader.loadSync("antipode/v1/generation.proto", {
  includeDirs: [proto],
  longs: String,
});
const { Generation } = grpc.loadPackageDefinition(definition).antipode.v1;
const generation = new Generation(server, grpc.credentials.createInsecure());

const call = generation.Generate(
  {
    chat: { messages: [{ role: "user", content: "What is the capital of France?" }] },
    sampling: { temperature: 0, maxTokens: 32 },
  },
  { deadline: Date.now() + 60_000 },
);
for await (const response of call) {
  process.stdout.write(response.text);
}
console.log();
generation.close();
