"""The sample of sentences that readers judge."""

from tests.support import sentences


def test_each_kind_of_text_is_read() -> None:
    docstring = '"""One task is added here.\n\nArgs:\n    queue: the queue that it goes to.\n"""\n'
    source = docstring + "# Why it stays\n# as it is.\n"
    assert list(filter(None, sentences.python_texts(source))) == [
        "One task is added here.",
        "the queue that it goes to.",
        "Why it stays as it is.",
    ]
    message = 'raise ValueError(f"queue {name!r} is not known here")\n'
    assert list(filter(None, sentences.python_texts(message))) == ["queue … is not known here"]
    assert list(sentences.lua_texts("-- ack: the end\n-- of a task.\n-- include: keys\nlocal a = 1\n")) == [
        "ack: the end of a task."
    ]
    page = "# Title\n\nThe first\nsentence. The second.\n\n- One item of it.\n\n| a | b |\n\n```\ncode\n```\n"
    assert list(filter(None, sentences.page_texts(page))) == [
        "The first sentence. The second.",
        "One item of it.",
    ]
    assert "Start a new run" in next(iter(sentences.template_texts("<p>{% if a %}Start a new run</p>")))


def test_a_text_is_cut_into_sentences_of_four_words_or_more() -> None:
    text = "The task runs again later. Not this. `ack` removes the lease first."

    assert list(sentences.sentences(text)) == ["The task runs again later.", "`ack` removes the lease first."]


def test_the_project_has_thousands_of_them_from_every_place() -> None:
    found = {str(path).split("/")[0] for path, text in sentences.texts() if list(sentences.sentences(text))}

    assert found == sentences.SOURCES
