"""Expected texts are those of Go's text/template with Docker's functions."""

from __future__ import annotations

import pytest

from sampan.cli.template import Record, Template, TemplateError

DATA = {
    "Id": "abc",
    "Name": "/one",
    "Count": 3,
    "Flag": True,
    "None": None,
    "List": ["a", "b"],
    "Empty": [],
    "Labels": {"z": "1", "com.example/x": "2"},
    "State": {"Running": True, "Pid": 7},
    "Config": {"Labels": {"a": "b"}, "Cmd": ["sh", "-c"]},
    "Networks": {"n1": {"IPAddress": "10.0.0.2"}},
}


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{.Id}} {{.State.Pid}}", "abc 7"),
        ("{{.ID}}", "abc"),
        ("{{json .List}} {{json .None}} {{.List | json}}", '["a","b"] null ["a","b"]'),
        ("{{.List}} {{.Labels}} {{.Flag}} {{.None}}", "[a b] map[com.example/x:2 z:1] true <nil>"),
        ("{{range .List}}<{{.}}>{{end}}", "<a><b>"),
        ("{{range $i, $v := .List}}{{$i}}={{$v}} {{end}}", "0=a 1=b "),
        ("{{range $k, $v := .Labels}}{{$k}}:{{$v}};{{end}}", "com.example/x:2;z:1;"),
        ("{{range .Empty}}x{{else}}none{{end}}", "none"),
        ('{{range .List}}{{if eq . "b"}}{{break}}{{end}}{{.}}{{end}}', "a"),
        ('{{range .List}}{{if eq . "a"}}{{continue}}{{end}}{{.}}{{end}}', "b"),
        ("{{if .Empty}}1{{else if .Flag}}2{{else}}3{{end}}", "2"),
        ("{{with .State}}{{.Pid}} {{$.Id}}{{end}}", "7 abc"),
        ("{{with .Empty}}x{{else}}y{{end}}", "y"),
        ("{{$x := .Count}}{{$x}}{{$x = 5}}{{$x}}", "35"),
        ('{{(index .Networks "n1").IPAddress}}', "10.0.0.2"),
        ('{{index .Labels "com.example/x"}} {{index .List 1}}', "2 b"),
        ('{{index .Labels "no"}}|{{.Labels.no}}', "|<no value>"),
        ('{{join .List ", "}} {{upper "ab"}} {{lower "AB"}} {{title "ab cd"}}', "a, b AB ab Ab Cd"),
        ('{{split "a:b" ":"}} {{pad "x" 1 2}}| {{truncate "abcdef" 3}}', "[a b]  x  | abc"),
        ("{{len .List}} {{len .Name}} {{slice .Name 1}} {{slice .List 0 1}}", "2 4 one [a]"),
        (
            '{{eq .Count 3}} {{eq .Count 1 2 3}} {{ne .Id "x"}} {{lt 1 2}} {{ge 2 2}}',
            "true true true true true",
        ),
        ('{{and .Flag .Count}} {{or .Empty "d"}} {{not .Flag}}', "3 d false"),
        ('{{printf "%s-%5d|%-4s|%q %v%%" .Id .Count "x" "y" .Flag}}', 'abc-    3|x   |"y" true%'),
        ('{{println .Id}}{{print 1 2 "x" 3}}', "abc\n1 2x3"),
        ('a {{- "b" -}} c', "abc"),
        ("a{{/* comment */}}b", "ab"),
        ('{{`raw \\n`}}{{"\\t"}}', "raw \\n\t"),
        ("{{if .State.Health}}x{{else}}y{{end}}", "y"),
        ('{{.Config.Labels.a | printf "%s!" | upper}}', "B!"),
    ],
)
def test_a_template_gives_gos_text(source: str, text: str) -> None:
    assert Template(source).render(DATA) == text


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{{.Foo", "template: :1: unclosed action"),
        ("\n{{foo .Id}}", 'template: :2: function "foo" not defined'),
        ("{{if .Id}}x", "template: :1: unexpected EOF"),
        ("{{end}}", "template: :1: unexpected {{end}}"),
        ("{{$x}}", 'template: :1: undefined variable "$x"'),
        ('{{"a}}', "template: :1: unterminated quoted string"),
        ("{{}}", "template: :1: missing value for command"),
    ],
)
def test_a_text_that_is_no_template_is_refused(source: str, message: str) -> None:
    with pytest.raises(TemplateError) as caught:
        Template(source)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{{.Foo}}", 'template: :1:2: executing "" at <.Foo>: map has no entry for key "Foo"'),
        (
            "x\n {{.State.Foo}}",
            'template: :2:3: executing "" at <.State.Foo>: map has no entry for key "Foo"',
        ),
        (
            "{{.Id.Foo}}",
            'template: :1:2: executing "" at <.Id.Foo>: can\'t evaluate field Foo in type string',
        ),
        (
            "{{index .List 5}}",
            'template: :1:2: executing "" at <index>: error calling index: index out of range: 5',
        ),
        (
            "{{eq .Id 1}}",
            'template: :1:2: executing "" at <eq>: error calling eq: incompatible types for comparison',
        ),
    ],
)
def test_a_template_that_fails_says_where(source: str, message: str) -> None:
    with pytest.raises(TemplateError) as caught:
        Template(source).render(DATA)
    assert str(caught.value) == message


def test_a_row_computes_only_the_fields_that_are_asked_for() -> None:
    def never() -> str:
        raise AssertionError("not asked for")

    row = Record("ContainerContext", {"ID": lambda: "1", "Size": never}, {"Label": lambda name: name.upper()})
    assert Template('{{.ID}} {{.Label "x"}}').render(row) == "1 X"
    with pytest.raises(TemplateError, match=r"can't evaluate field Foo in type \*formatter.ContainerContext"):
        Template("{{.Foo}}").render(row)
