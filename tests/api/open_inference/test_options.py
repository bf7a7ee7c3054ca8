import pytest

from server.api.open_inference.options import read_json, read_options
from server.errors import ApiError
from server.link.sampling import Grammar


def refusal(*sources):
    with pytest.raises(ApiError) as error:
        read_options(*sources)
    return error.value.message


def test_options_of_all_sources_are_one_set():
    options = read_options({"temperature": 0.5, "stop": "x"}, {"max_tokens": 3}, {"n": 2})
    assert (options.sampling.temperature, options.sampling.max_tokens) == (0.5, 3)
    assert (options.sampling.stop, options.n) == (("x",), 2)


def test_numbers_may_be_text_as_some_clients_send_them():
    sampling = read_options({"temperature": "0.5", "top_k": "4", "ignore_eos": "true"}).sampling
    assert (sampling.temperature, sampling.top_k, sampling.ignore_eos) == (0.5, 4, True)


def test_other_servers_names_are_read():
    options = read_options({"random_seed": 7, "stop_words": ["a"], "max_new_tokens": 2})
    assert (options.sampling.seed, options.sampling.stop) == (7, ("a",))
    assert options.sampling.max_tokens == 2


@pytest.mark.parametrize(
    ("given", "grammar"),
    [
        ({"json_schema": {"type": "object"}}, Grammar("json_schema", '{"type":"object"}')),
        ({"json_schema": "{}"}, Grammar("json_schema", "{}")),
        ({"regex": "a+"}, Grammar("regex", "a+")),
        ({"choice": ["a", "b"]}, Grammar("choice", '["a","b"]')),
        ({"json_object": True}, Grammar("json_object", "")),
        ({"json_object": False}, None),
    ],
)
def test_a_form_of_text_is_read(given, grammar):
    assert read_options(given).sampling.grammar == grammar


@pytest.mark.parametrize(
    ("sources", "sentence"),
    [
        (({"temprature": 1},), "temprature is no option of this server"),
        (({"max_tokens": "many"},), "max_tokens: expected `int`, got `str`"),
        (({"seed": 1}, {"random_seed": 2}), "random_seed is given twice"),
        (({"regex": "a", "choice": ["b"]},), "regex and choice both limit the text"),
        (({"regex": 3},), "regex must be text"),
        (({"logprobs": 2},), "logprobs is not supported by this protocol"),
        (({"best_of": 2},), "best_of is not supported"),
    ],
)
def test_an_option_that_cannot_be_honoured_is_refused(sources, sentence):
    assert sentence in refusal(*sources)


def test_a_beam_of_one_changes_nothing_but_is_no_option():
    assert "is no option" in refusal({"beam_width": 1})


@pytest.mark.parametrize("text", ["{", "[1]", b"\xff", "7"])
def test_sampling_parameters_must_be_a_json_object(text):
    with pytest.raises(ApiError, match="sampling_parameters"):
        read_json(text, "sampling_parameters")
