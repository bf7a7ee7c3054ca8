// JavaScript clients against one server: its address is in ANTIPODE_URL, its model in ANTIPODE_MODEL.

import assert from "node:assert/strict";
import test from "node:test";

import Anthropic from "@anthropic-ai/sdk";
import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { ChatOpenAI } from "@langchain/openai";
import { generateObject, generateText, streamText, tool } from "ai";
import OpenAI from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";

const server = process.env.ANTIPODE_URL;
const model = process.env.ANTIPODE_MODEL;
const baseURL = `${server}/v1`;
const apiKey = "unused";

const Fruit = z.object({ colour: z.enum(["red", "green"]), count: z.number().int().min(1).max(9) });
const Paint = z.object({ colour: z.enum(["red", "green"]) });
const messages = [{ role: "user", content: "Name a fruit." }];
const prompt = "Name a fruit.";

const openai = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
const aiSdk = {
  "openai-compatible": createOpenAICompatible({ name: "antipode", baseURL, apiKey, supportsStructuredOutputs: true })(model),
  "openai chat": createOpenAI({ baseURL, apiKey }).chat(model),
  "openai responses": createOpenAI({ baseURL, apiKey }).responses(model),
  anthropic: createAnthropic({ baseURL, apiKey })(model),
};

test("openai: an answer parsed into a type", async () => {
  const answer = await openai.chat.completions.parse({
    model, messages, max_tokens: 200, response_format: zodResponseFormat(Fruit, "fruit"),
  });
  Fruit.parse(answer.choices[0].message.parsed);
});

test("openai: a streamed tool call", async () => {
  const tools = [{ type: "function", function: { name: "paint", parameters: z.toJSONSchema(Paint) } }];
  const stream = openai.chat.completions.stream({ model, messages, tools, tool_choice: "required", max_tokens: 200 });
  const final = await stream.finalChatCompletion();
  Paint.parse(JSON.parse(final.choices[0].message.tool_calls[0].function.arguments));
});

test("openai: a response", async () => {
  const answer = await openai.responses.create({ model, input: prompt, max_output_tokens: 20 });
  assert.ok(answer.usage.output_tokens > 0);
});

test("openai: embeddings", async () => {
  const answer = await openai.embeddings.create({ model, input: ["one", "two"] });
  assert.equal(answer.data.length, 2);
});

test("anthropic: a streamed message", async () => {
  const anthropic = new Anthropic({ baseURL: server, apiKey, maxRetries: 0 });
  const stream = anthropic.messages.stream({ model, messages, max_tokens: 20 });
  const final = await stream.finalMessage();
  assert.equal(await stream.finalText(), final.content[0].text);
});

for (const [name, served] of Object.entries(aiSdk)) {
  test(`AI SDK, ${name}: text`, async () => {
    const { usage } = await generateText({ model: served, prompt, maxOutputTokens: 20, maxRetries: 0 });
    assert.ok(usage.outputTokens > 0);
  });

  test(`AI SDK, ${name}: a stream`, async () => {
    const { textStream, finishReason } = streamText({ model: served, prompt, maxOutputTokens: 20, maxRetries: 0 });
    for await (const piece of textStream) assert.equal(typeof piece, "string");
    assert.ok(["stop", "length"].includes(await finishReason));
  });

  test(`AI SDK, ${name}: an object`, async () => {
    const { object } = await generateObject({ model: served, schema: Fruit, prompt, maxOutputTokens: 200, maxRetries: 0 });
    Fruit.parse(object);
  });

  test(`AI SDK, ${name}: a tool that must be called`, async () => {
    const { toolCalls } = await generateText({
      model: served, prompt, maxOutputTokens: 200, maxRetries: 0, toolChoice: "required",
      tools: { paint: tool({ description: "Paint the wall.", inputSchema: Paint }) },
    });
    Paint.parse(toolCalls[0].input);
  });
}

test("LangChain: an answer of a type", async () => {
  const chat = new ChatOpenAI({ model, apiKey, maxTokens: 200, maxRetries: 0, configuration: { baseURL } });
  Fruit.parse(await chat.withStructuredOutput(Fruit, { method: "jsonSchema" }).invoke(prompt));
});
