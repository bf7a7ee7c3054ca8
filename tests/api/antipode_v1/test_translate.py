import dataclasses

import pytest

from server.api.antipode_v1 import chats, translate
from server.api.chat.messages import ToolCall
from server.api.chat.tools import Tool, ToolChoice
from server.api.requests.generation import Delta, Sampling, TokenLogprob, Usage
from server.errors import ApiError
from server.link.sampling import Grammar
from server.pb.antipode.v1 import generation_pb2 as pb

# Every option: a value other than the default, and the one that is easily taken for "unset".
OPTIONS = {
    "max_tokens": (7, 0),
    "min_tokens": (3, 0),
    "temperature": (0.7, 0.0),
    "top_p": (0.9, 0.0),
    "top_k": (40, 0),
    "min_p": (0.05, 0.0),
    "presence_penalty": (-0.5, 0.0),
    "frequency_penalty": (0.3, 0.0),
    "repetition_penalty": (1.1, 0.0),
    "logit_bias": ({5: -1.5, 9: 100.0}, {}),
    "seed": (2**64 - 1, 0),
    "stop": (("a", "ü"), ()),
    "stop_token_ids": ((1, 2), ()),
    "allowed_token_ids": ((1, 2), ()),
    "bad_words": (("a", "ü"), ()),
    "include_stop_str_in_output": (True, False),
    "ignore_eos": (True, False),
    "skip_special_tokens": (False, True),
    "logprobs": (5, 0),
    "prompt_logprobs": (1, 0),
}


class TestSampling:
    def test_nothing_set_is_every_default(self):
        assert translate.sampling(pb.Sampling()) == Sampling()

    @pytest.mark.parametrize(
        ("name", "value"), [(name, value) for name, pair in OPTIONS.items() for value in pair]
    )
    def test_each_option_arrives_as_it_was_given(self, name, value):
        message = pb.Sampling.FromString(pb.Sampling(**{name: value}).SerializeToString())
        assert translate.sampling(message) == Sampling(**{name: value})

    def test_the_service_s_options_and_the_message_s_are_the_same(self):
        names = {field.name for field in dataclasses.fields(Sampling)}
        assert set(pb.Sampling.DESCRIPTOR.fields_by_name) == names == {*OPTIONS, "grammar"}

    @pytest.mark.parametrize(
        ("message", "grammar"),
        [
            (pb.Grammar(json_schema="{}"), Grammar("json_schema", "{}")),
            (pb.Grammar(json_object=True), Grammar("json_object", "")),
            (pb.Grammar(json_object=False), None),
            (pb.Grammar(choice=pb.Texts(texts=["a", "é"])), Grammar("choice", '["a", "\\u00e9"]')),
            (pb.Grammar(regex=""), Grammar("regex", "")),
            (pb.Grammar(structural_tag="{}"), Grammar("structural_tag", "{}")),
        ],
    )
    def test_a_grammar_of_every_kind_is_read(self, message, grammar):
        assert translate.sampling(pb.Sampling(grammar=message)).grammar == grammar

    def test_a_zero_is_not_unset_where_that_differs(self):
        for name, field in pb.Sampling.DESCRIPTOR.fields_by_name.items():
            default = getattr(Sampling(), name)
            if default is None or default is True:
                assert field.has_presence, name

    def test_the_result_is_hashable_plain_data(self):
        options = translate.sampling(pb.Sampling(stop=["a"], stop_token_ids=[1]))
        assert type(options.stop) is type(options.stop_token_ids) is tuple
        assert type(options.logit_bias) is dict


class TestPrompt:
    @pytest.mark.parametrize(
        ("message", "expected"),
        [
            (pb.GenerateRequest(text="x"), True),
            (pb.GenerateRequest(text="x", add_special_tokens=True), True),
            (pb.GenerateRequest(text="x", add_special_tokens=False), False),
            (pb.GenerateRequest(chat=pb.Chat()), False),
            (pb.GenerateRequest(chat=pb.Chat(), add_special_tokens=True), False),
            (pb.TokenizeRequest(text="x"), True),
            (pb.TokenizeRequest(chat=pb.Chat()), False),
        ],
        ids=str,
    )
    def test_special_tokens_are_added_to_text_only(self, message, expected):
        assert translate.add_special_tokens(message) is expected

    @pytest.mark.parametrize(
        ("message", "expected"),
        [
            (pb.Chat(), True),
            (pb.Chat(add_generation_prompt=False), False),
            (pb.Chat(continue_final_message=True), False),
            (pb.Chat(continue_final_message=True, add_generation_prompt=True), True),
        ],
        ids=str,
    )
    def test_a_continued_message_is_not_followed_by_another(self, message, expected):
        assert chats.add_generation_prompt(message) is expected

    def test_messages_keep_their_order_and_may_be_empty(self):
        roles = ["system", "user", "assistant", "tool"]
        chat = pb.Chat(messages=[pb.ChatMessage(role=role, content=role[:1]) for role in roles])
        chat.messages[3].content = ""
        messages = chats.conversation(chat).messages
        said = [(message.role, message.content) for message in messages]
        assert said == [("system", "s"), ("user", "u"), ("assistant", "a"), ("tool", "")]

    def test_a_message_needs_a_role(self):
        with pytest.raises(ApiError, match="role"):
            chats.conversation(pb.Chat(messages=[pb.ChatMessage(content="hi")]))

    def test_calls_results_and_tools_arrive_as_objects(self):
        chat = pb.Chat(
            messages=[
                pb.ChatMessage(
                    role="assistant",
                    reasoning="Hm.",
                    tool_calls=[pb.ToolCall(id="c", name="f", arguments='{"a": 1}')],
                ),
                pb.ChatMessage(role="tool", content="2", tool_call_id="c"),
            ],
            tools=[pb.Tool(name="f", parameters='{"type": "object"}', strict=True)],
            tool_choice=pb.ToolChoice(mode=pb.ToolChoice.MODE_NAMED, name="f"),
            template_options='{"x": [1]}',
        )
        read = chats.conversation(chat)
        call, result = read.messages
        assert call.tool_calls == (ToolCall(id="c", name="f", arguments={"a": 1}),)
        assert (call.reasoning, result.tool_call_id) == ("Hm.", "c")
        assert read.tools == (Tool(name="f", parameters={"type": "object"}, strict=True),)
        assert read.tool_choice == ToolChoice("named", "f")
        assert read.options.template_options == {"x": [1]}

    def test_a_result_of_a_call_that_nobody_made_is_refused(self):
        stray = pb.ChatMessage(role="tool", content="2", tool_call_id="c")
        with pytest.raises(ApiError, match=r"chat\.messages\[0\] is the result of the call 'c'"):
            chats.conversation(pb.Chat(messages=[stray]))

    @pytest.mark.parametrize(
        ("fields", "where"),
        [
            ({"tools": [pb.Tool(name="f", parameters="[]")]}, r"chat.tools\[0\].parameters"),
            ({"tool_choice": pb.ToolChoice(name="f")}, "chat.tool_choice"),
            ({"tool_choice": pb.ToolChoice(mode=99)}, "chat.tool_choice"),
            ({"template_options": "{"}, "chat.template_options"),
            ({"messages": [pb.ChatMessage(role="user", tool_calls=[pb.ToolCall()])]}, "tool_calls"),
            (
                {"messages": [pb.ChatMessage(role="assistant", tool_calls=[pb.ToolCall()])]},
                "no name",
            ),
            (
                {
                    "messages": [
                        pb.ChatMessage(
                            role="assistant", tool_calls=[pb.ToolCall(name="f", arguments="1")]
                        )
                    ]
                },
                "arguments",
            ),
        ],
        ids=str,
    )
    def test_what_cannot_be_read_is_refused_by_its_place(self, fields, where):
        with pytest.raises(ApiError, match=where):
            chats.conversation(pb.Chat(**fields))


class TestResponse:
    def test_what_did_not_come_is_unset(self):
        assert translate.response(Delta(index=0), with_token_ids=True) == pb.GenerateResponse()

    def test_text_and_tokens(self):
        delta = Delta(index=2, text="hé", token_ids=[1, 70000])
        expected = pb.GenerateResponse(index=2, text="hé", token_ids=[1, 70000])
        assert translate.response(delta, with_token_ids=True) == expected
        expected.ClearField("token_ids")
        assert translate.response(delta, with_token_ids=False) == expected

    @pytest.mark.parametrize("reason", ["stop", "length", "abort"])
    def test_finish_reasons_have_the_service_s_names(self, reason):
        message = translate.response(Delta(index=0, finish_reason=reason), with_token_ids=False)
        name = pb.FinishReason.Name(message.finish_reason)
        assert name == f"FINISH_REASON_{reason.upper()}"

    @pytest.mark.parametrize(
        ("stop_reason", "field"),
        [("END", "stop_string"), ("", "stop_string"), (0, "stop_token_id")],
    )
    def test_a_stop_reason_is_told_apart_from_none(self, stop_reason, field):
        delta = Delta(index=0, finish_reason="stop", stop_reason=stop_reason)
        message = translate.response(delta, with_token_ids=False)
        assert message.WhichOneof("stop_reason") == field
        assert getattr(message, field) == stop_reason

    def test_logprobs_with_their_alternatives(self):
        top = (TokenLogprob(4, "b", b"b", -1.0), TokenLogprob(5, "\ufffd", b"\xc3", -2.0))
        entry = TokenLogprob(3, "a", b"a", -0.5, top)
        message = translate.response(Delta(index=0, logprobs=[entry]), with_token_ids=False)
        (sent,) = message.logprobs
        assert (sent.token_id, sent.token, sent.token_bytes, sent.logprob) == (3, "a", b"a", -0.5)
        assert [(t.token_id, t.token_bytes, t.logprob) for t in sent.top] == [
            (4, b"b", -1.0),
            (5, b"\xc3", -2.0),
        ]

    def test_a_certain_token_has_a_logprob_of_zero_and_not_none(self):
        sent = translate.token_logprob(TokenLogprob(3, "a", b"a", 0.0))
        assert sent.HasField("logprob")

    def test_usage_has_the_counts_of_the_service(self):
        counts = Usage(num_prompt_tokens=3, num_generated_tokens=4, num_cached_tokens=2)
        assert translate.usage(counts) == pb.Usage(
            num_prompt_tokens=3, num_generated_tokens=4, num_cached_tokens=2
        )
