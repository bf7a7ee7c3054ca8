"""Frameworks for agents and for structured answers, each as its documentation shows."""

from __future__ import annotations

import asyncio
import os
import secrets
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import KEY, free_port
from forms import QUESTION, Fruit


def paint(colour: str) -> str:
    """Paint the wall.

    Args:
        colour: The colour to paint it in.
    """
    return f"painted in {colour}"


class TestLangChain:
    @pytest.fixture
    def chat(self, base_url, model):
        from langchain_openai import ChatOpenAI

        return ChatOpenAI(base_url=base_url, api_key=KEY, model=model, max_tokens=200)

    def test_a_chat_is_invoked_and_streamed(self, chat):
        assert chat.invoke(QUESTION).usage_metadata["output_tokens"] > 0
        assert [piece.content for piece in chat.stream(QUESTION)]

    @pytest.mark.parametrize("method", ["json_schema", "function_calling"])
    def test_an_answer_of_a_type(self, chat, method):
        assert isinstance(chat.with_structured_output(Fruit, method=method).invoke(QUESTION), Fruit)

    def test_a_tool_that_must_be_called(self, chat):
        answer = chat.bind_tools([paint], tool_choice="any").invoke(QUESTION)
        assert answer.tool_calls[0]["name"] == "paint"

    def test_texts_are_embedded(self, base_url, model):
        from langchain_openai import OpenAIEmbeddings

        embeddings = OpenAIEmbeddings(
            base_url=base_url, api_key=KEY, model=model, check_embedding_ctx_length=False
        )
        assert len(embeddings.embed_documents(["one", "two"])) == 2

    def test_messages_in_the_form_of_anthropic(self, server, model):
        from langchain_anthropic import ChatAnthropic

        chat = ChatAnthropic(base_url=server, api_key=KEY, model=model, max_tokens=20)
        assert chat.invoke(QUESTION).usage_metadata["output_tokens"] > 0


class TestLlamaIndex:
    @pytest.fixture
    def llm(self, base_url, model):
        from llama_index.llms.openai_like import OpenAILike

        return OpenAILike(
            api_base=base_url,
            api_key=KEY,
            model=model,
            is_chat_model=True,
            is_function_calling_model=True,
            max_tokens=200,
        )

    def test_a_text_is_completed_and_streamed(self, llm):
        assert llm.complete(QUESTION).raw
        assert list(llm.stream_complete(QUESTION))

    def test_an_answer_of_a_type(self, llm):
        from llama_index.core.prompts import PromptTemplate

        assert isinstance(llm.structured_predict(Fruit, PromptTemplate(QUESTION)), Fruit)

    def test_texts_are_embedded(self, base_url, model):
        from llama_index.embeddings.openai_like import OpenAILikeEmbedding

        embedding = OpenAILikeEmbedding(model_name=model, api_base=base_url, api_key=KEY)
        assert len(embedding.get_text_embedding("one")) > 1


class TestLiteLLM:
    def test_a_completion_is_of_a_type(self, base_url, model):
        import litellm

        answer = litellm.completion(
            model=f"openai/{model}",
            api_base=base_url,
            api_key=KEY,
            messages=[{"role": "user", "content": QUESTION}],
            response_format=Fruit,
            max_tokens=200,
        )
        Fruit.model_validate_json(answer.choices[0].message.content)

    def test_a_prompt_that_is_too_long_is_recognised(self, base_url, model):
        import litellm

        with pytest.raises(litellm.ContextWindowExceededError):
            litellm.completion(
                model=f"openai/{model}",
                api_base=base_url,
                api_key=KEY,
                messages=[{"role": "user", "content": "word " * 5000}],
            )

    def test_the_proxy_passes_a_chat_on(self, base_url, model, tmp_path):
        import openai

        port = free_port()
        config = tmp_path / "proxy.yaml"
        config.write_text(
            "model_list:\n- model_name: served\n  litellm_params:\n"
            f"    model: openai/{model}\n    api_base: {base_url}\n    api_key: {KEY}\n"
        )
        key = f"sk-{secrets.token_hex(32)}"
        program = Path(sys.executable).with_name("litellm")
        proxy = subprocess.Popen(
            [program, "--config", config, "--port", str(port), "--host", "127.0.0.1"],
            env=os.environ | {"LITELLM_MASTER_KEY": key},
        )
        try:
            client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}", api_key=key, max_retries=20)
            answer = client.chat.completions.create(
                model="served", messages=[{"role": "user", "content": QUESTION}], max_tokens=5
            )
            assert answer.usage.completion_tokens > 0
        finally:
            proxy.terminate()
            proxy.wait(30)


class TestPydanticAI:
    def agent(self, base_url, model, **more):
        from pydantic_ai import Agent
        from pydantic_ai.models.openai import OpenAIChatModel
        from pydantic_ai.providers.openai import OpenAIProvider

        provider = OpenAIProvider(base_url=base_url, api_key=KEY)
        chat = OpenAIChatModel(model, provider=provider)
        return Agent(chat, model_settings={"max_tokens": 200}, **more)

    def test_an_agent_whose_answer_is_a_tool_call(self, base_url, model):
        assert isinstance(
            self.agent(base_url, model, output_type=Fruit).run_sync(QUESTION).output, Fruit
        )

    def test_an_agent_whose_answer_is_of_a_schema(self, base_url, model):
        from pydantic_ai import NativeOutput

        agent = self.agent(base_url, model, output_type=NativeOutput(Fruit))
        assert isinstance(agent.run_sync(QUESTION).output, Fruit)


class TestInstructor:
    @pytest.mark.parametrize("mode", ["TOOLS", "JSON_SCHEMA"])
    def test_an_answer_of_a_type(self, base_url, model, mode):
        import instructor
        import openai

        client = instructor.from_openai(
            openai.OpenAI(base_url=base_url, api_key=KEY), mode=instructor.Mode[mode]
        )
        answer = client.chat.completions.create(
            model=model,
            response_model=Fruit,
            messages=[{"role": "user", "content": QUESTION}],
            max_tokens=200,
        )
        assert isinstance(answer, Fruit)


class TestOutlines:
    def test_an_answer_of_a_type(self, base_url, model):
        import openai
        import outlines

        asked = outlines.from_openai(openai.OpenAI(base_url=base_url, api_key=KEY), model)
        Fruit.model_validate_json(asked(QUESTION, Fruit, max_tokens=200))


class TestSmolagents:
    def test_an_agent_that_calls_its_final_answer(self, base_url, model):
        from smolagents import OpenAIServerModel, ToolCallingAgent

        served = OpenAIServerModel(model_id=model, api_base=base_url, api_key=KEY, max_tokens=200)
        agent = ToolCallingAgent(tools=[], model=served, max_steps=2, instructions="Be brief.")
        assert agent.run(QUESTION) is not None


class TestOpenAIAgents:
    @pytest.mark.parametrize("surface", ["chat", "responses"])
    def test_an_agent_that_must_use_its_tool_and_stops_there(self, base_url, model, surface):
        import openai
        from agents import (
            Agent,
            ModelSettings,
            OpenAIChatCompletionsModel,
            OpenAIResponsesModel,
            Runner,
            function_tool,
        )

        painted = []

        @function_tool
        def paint(colour: bool) -> str:
            """Paint the wall."""
            painted.append(colour)
            return "painted"

        kind = OpenAIChatCompletionsModel if surface == "chat" else OpenAIResponsesModel
        client = openai.AsyncOpenAI(base_url=base_url, api_key=KEY)
        agent = Agent(
            name="painter",
            tools=[paint],
            tool_use_behavior="stop_on_first_tool",
            model=kind(model=model, openai_client=client),
            model_settings=ModelSettings(tool_choice="required", max_tokens=200),
        )
        result = asyncio.run(Runner.run(agent, QUESTION))
        assert painted
        assert result.final_output == "painted"
