// Chat by OpenAI's JavaScript client: one whole answer, then one that is printed as it comes.
// The server needs no key, but the client wants one.
import OpenAI from "openai";

const server = process.env.ANTIPODE_HTTP ?? "http://localhost:8000";
const client = new OpenAI({ baseURL: `${server}/v1`, apiKey: "none" });
const messages = [{ role: "user", content: "What is the capital of France?" }];

const { data: models } = await client.models.list();
const model = models[0].id;

const answer = await client.chat.completions.create({
  model,
  messages,
  max_tokens: 32,
  temperature: 0,
});
console.log(answer.choices[0].message.content);

const stream = await client.chat.completions.create({
  model,
  messages,
  max_tokens: 32,
  seed: 7,
  stream: true,
});
for await (const chunk of stream) {
  process.stdout.write(chunk.choices[0].delta.content ?? "");
}
console.log();
