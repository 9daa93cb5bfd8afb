"""Writes tests/fixtures/tokenizers/templates.json: one small template for each point in which Jinja2, as
transformers sets it up, is not like other readers of its language, with the text or the refusal it gives.

    pip install jinja2
    python scripts/fixtures_templates.py
"""

import json

from compare_templates import ROOT, environment

MESSAGES = [{"role": "system", "content": " Be\tbrief. "}, {"role": "user", "content": "2 < 3 & \"it's\"\né 😀\n"}, {"role": "assistant", "content": "Ja."}]
CONTEXT = {
    "messages": MESSAGES, "tools": None, "documents": None, "add_generation_prompt": True, "bos_token": "<s>",
    "tool": {"name": "f", "parameters": {"b": [1, 2.0, None, True], "a": {}, "n": -7, "x": 1e-7, "big": 1e16, "s": "it's \"q\"\\\n\u00a0é\u200b"}},
}

TEMPLATES = r"""
{{ none is iterable }} {{ missing is iterable }} {{ 'a' is iterable }} {{ {} is iterable }} {{ 1 is iterable }} {{ true is iterable }}
{{ none is sequence }} {{ 'a' is sequence }} {{ {} is sequence }} {{ [] is sequence }} {{ messages[1:] is sequence }} {{ missing is sequence }} {{ 1 is sequence }}
{{ [] is mapping }} {{ {} is mapping }} {{ none is mapping }} {{ messages[0] is mapping }} {{ 'a' is string }} {{ none is string }} {{ missing is string }}
{{ true is number }} {{ 1.5 is number }} {{ 'a' is number }} {{ true is integer }} {{ 1 is integer }} {{ 1.0 is integer }} {{ 1.0 is float }} {{ true is boolean }} {{ 1 is boolean }}
{{ none is none }} {{ missing is none }} {{ missing is defined }} {{ messages[0].x is undefined }} {{ tools is defined }} {{ tools is not none }}
{{ 'a' is in 'abc' }} {{ 'a' in ['a'] }} {{ 'role' in messages[0] }} {{ 1 is in [2] }} {{ 'x' not in 'abc' }} {{ missing is in [1] }}
{{ raise_exception is callable }} {{ 'a' is callable }} {{ 1 is odd }} {{ 6 is divisibleby 3 }} {{ 'a' is lower }} {{ 1 is sameas 1 }} {{ 3 is eq 3 }} {{ 2 is gt(1) }}
{{ true }} {{ false }} {{ none }} {{ missing }} {{ 1 }} {{ 1.0 }} {{ 2.50 }} {{ 1e-7 }} {{ 10 / 4 }} {{ 4 / 2 }} {{ 7 // 2 }} {{ -7 // 2 }} {{ -7 % 3 }} {{ 7 % -3 }} {{ 2 ** 3 }} {{ 7.5 // 2 }}
{{ tool.parameters }} {{ tool.parameters.x }} {{ tool.parameters.big }} {{ tool.parameters.b[1] }}
{{ [1, 'a', "it's", none, true, 1.0, [], {}] }} {{ {'a': none, 1: false} }} {{ messages[1] }}
{{ 'a' ~ none ~ true ~ 1.0 ~ missing ~ [1, 'b'] ~ {'k': none} }} {{ 1 ~ 2 + '3' }}
{{ 'a' + 1 }}
{{ 'a' + none }}
{{ none + 'a' }}
{{ missing + 'a' }}
{{ 1 + 2.5 }} {{ true + 1 }} {{ [1] + [2, 3] }} {{ ([1] + [2])[1] }} {{ 'a' + 'b' * 2 }} {{ 2 * 'ab' }} {{ 'ab' * -1 }} {{ [1, 2] * 2 }} {{ 5 - 3 - 1 }} {{ 2 - 3 + 4 }}
{{ 'abcdef'[1:3] }} {{ 'abcdef'[::-1] }} {{ 'abcdef'[-2:] }} {{ 'abcdef'[:-2] }} {{ 'abcdef'[4:1:-1] }} {{ 'abcdef'[::2] }} {{ 'abcdef'[:0:-2] }} {{ 'abc'[0] }} {{ 'abc'[-1] }} {{ 'abc'[9] }} {{ ''[::-1] }}
{{ [][::-1] }} {{ [1, 2, 3][::-1] }} {{ [1, 2, 3][:0:-1] }} {{ [1, 2, 3][-100:2] }} {{ [1, 2, 3][5:] }} {{ messages[1:][0].role }} {{ messages[::-1][0]['role'] }} {{ messages[1:] | length }}
{{ messages[0].content.strip() }}|{{ 'xxaxx'.strip('x') }}|{{ ' a '.lstrip() }}|{{ ' a '.rstrip() }}|{{ 'abcab'.rstrip('ab') }}|{{ '\x1fa\u3000'.strip() }}
{{ 'a,b,c'.split(',') }} {{ 'a,b,c'.split(',', 1) }} {{ ' a  b '.split() }} {{ 'a b c'.split(' ')[-1] }} {{ 'a,b,c'.rsplit(',', 1) }} {{ ' a b  c '.split(none, 1) }} {{ ' a b  c '.rsplit(none, 1) }} {{ 'a</x>b'.split('</x>')[0] }}
{{ 'a\nb\r\nc\n'.splitlines() }} {{ 'a=b=c'.partition('=')[2] }} {{ 'a=b=c'.rpartition('=')[0] }} {{ 'abc'.removeprefix('a') }} {{ 'abc'.removesuffix('c') }}
{{ 'abc'.startswith('a') }} {{ 'abc'.startswith(('x', 'a')) }} {{ 'abc'.endswith('c') }} {{ 'abc'.find('c') }} {{ 'abc'.find('x') }} {{ 'éab'.index('b') }} {{ 'aXbX'.rfind('X') }} {{ 'abab'.count('ab') }} {{ 'abab'.replace('ab', 'x', 1) }}
{{ 'aBc dEf'.upper() }} {{ 'ABC'.lower() }} {{ 'hello wORLD'.title() }} {{ 'hELLO wORLD'.capitalize() }} {{ 'hELLO' | capitalize }} {{ 'hello world' | title }} {{ '12'.isdigit() }} {{ 'a1'.isalnum() }} {{ 'ab'.isalpha() }} {{ ' '.isspace() }} {{ 'A'.isupper() }}
{{ ', '.join(['a', 'b']) }} {{ '{} and {}'.format('a', 1) }} {{ '{0}{1}{0}'.format('a', 'b') }} {{ '{x}'.format(x=1) }}
{{ ','.join([1]) }}
{{ '%s is %s' % ('a', 1) }} {{ '%s' % none }} {{ '%d %.2f' % (3, 2.5) }} {{ '%s-%s' | format('a', true) }}
{{ messages[0].get('role') }} {{ messages[0].get('x') }} {{ messages[0].get('x', 'd') }} {{ messages[0].keys() | list }} {{ messages[0].values() | list | length }} {% for k, v in messages[0].items() %}{{ k }}={{ v }};{% endfor %}
{% for k, v in tool.parameters | items %}{{ k }}={{ v }};{% endfor %} {% for k, v in tool.parameters | dictsort %}{{ k }},{% endfor %} {% for k in tool %}{{ k }},{% endfor %}
{% for x in none %}a{% endfor %}
{% for x in 5 %}a{% endfor %}
{% for x in missing %}a{% else %}empty{% endfor %} {% for c in 'añb' %}{{ c }}.{% endfor %}
{{ none | length }}
{{ missing | length }} {{ 'añ' | length }} {{ {} | length }} {{ [1] | count }} {{ 'abc' | list }} {{ missing | list }} {{ {'a': 1} | list }}
{{ missing.x }}
{{ missing['x'] }}
{{ none.x }}|{{ messages[9] }}|{{ 'abc'.x }}|{{ 1 .x }}
{{ messages[0].x.y }}
{{ missing == none }} {{ missing == '' }} {{ none == false }} {{ 1 == 1.0 }} {{ true == 1 }} {{ 'a' == 'a' }} {{ [1] == [1] }} {{ messages[0] == messages[0] }} {{ 'b' > 'a' }} {{ 1 < 2 }}
{{ missing < 1 }}
{{ 'x' if false }}|{{ 'x' if true else 'y' }}|{{ ('x' if false) is defined }}|{{ none or 'd' }}|{{ 'a' and 'd' }}|{{ not missing }}|{{ 0 or none }}
{{ missing | default('d') }} {{ none | default('d') }} {{ none | default('d', true) }} {{ '' | d('d', boolean=true) }} {{ false | default(1, true) }}
{{ [1, none, 'a', true] | join(', ') }} {{ messages | map(attribute='role') | join('+') }} {{ messages | join('|', attribute='role') }} {{ [] | join }} {{ 'abc' | join('-') }}
{{ messages | selectattr('role', 'equalto', 'user') | list | length }} {{ messages | rejectattr('role', 'in', ['user']) | map(attribute='role') | list }} {{ [1, none, 2] | select | list }} {{ [1, 2, 3] | select('odd') | list }} {{ [1, 'a'] | select('string') | list }} {{ messages | selectattr('x', 'defined') | list }} {{ messages | selectattr('role') | first }}
{{ ['a', 'b'] | map('upper') | list }} {{ [[1, 2], [3]] | map('length') | list }} {{ [{'a': 1}, {}] | map(attribute='a', default='d') | list }} {{ ['b', 'A', 'c'] | sort }} {{ [3, 1] | sort(reverse=true) }} {{ [1, 1, 2] | unique | list }} {{ [1, 2, 3] | sum }} {{ [1, 3, 2] | max }} {{ [1, 2] | last }} {{ [] | first }} {{ [1, 2, 3] | reverse | list }} {{ 'abc' | reverse }}
{{ 'a\nb\n\nc' | indent }}|{{ 'a\nb' | indent(2) }}|{{ 'a\nb' | indent(2, true) }}|{{ 'a\n\nb\n' | indent(2, blank=true) }}|{{ 'a\nb\n' | indent(width='> ') }}|{{ 'a\nb' | indent(2, first=True) }}
{{ ' a ' | trim }}|{{ 'xax' | trim('x') }}|{{ 1 | string + 'a' }}|{{ none | string }}|{{ 1.0 | string }}|{{ 'a' | replace('a', 'b') }}|{{ 'aaa' | replace('a', 'b', 2) }}|{{ 'ABC' | lower }}|{{ none | upper }}|{{ 'a b' | wordcount }}
{{ '3.7' | int }} {{ 'x' | int }} {{ 'x' | int(5) }} {{ 3.9 | int }} {{ '2' | float }} {{ 'x' | float }} {{ 2.5 | round }} {{ 3.5 | round }} {{ 2.345 | round(2) }} {{ 2.1 | round(method='ceil') }} {{ 5 | round }} {{ -3 | abs }} {{ '12' | int + 1 }}
{{ tool | tojson }}
{{ tool | tojson(indent=2) }}
{{ tool | tojson(ensure_ascii=true) }} {{ tool | tojson(sort_keys=true) }} {{ [1, {'a': []}] | tojson(separators=(',', ':')) }} {{ [1, {'a': {}}] | tojson(indent=4) }} {{ 'é😀</x>\u007f' | tojson }} {{ {1: 2, none: 3} | tojson }}
{{ missing | tojson }}
{{ '<a href="x">&\'' | escape }} {{ '<' | safe }} {{ ('<' | safe) + '<' }} {{ '<' ~ ('<' | safe) }} {{ '<' | e | upper }}
{{ 'it''s' }}
{{ "a\tb\\n\x41\u00e9\"'" }} {{ 'a' 'b' }} {{ "\/" }} {{ '\d' }}
{{ (1, 2) | list }} {{ (1, 'a')[1] }} {{ (1) }} {% set a, b = 1, 2 %}{{ b }}{{ a }} {% for a, b in [(1, 2), (3, 4)] %}{{ a }}{{ b }}{% endfor %}
{% set ns = namespace(i=0, s='') %}{% for m in messages %}{% set ns.i = ns.i + 1 %}{% set ns.s = ns.s ~ m.role[0] %}{% endfor %}{{ ns.i }}{{ ns.s }} {{ dict(a=1, b=none) }} {{ dict([('a', 1)]) }}
{% set x = 1 %}{% for m in messages %}{% set x = 2 %}{% endfor %}{{ x }}{% if true %}{% set x = 3 %}{% endif %}{{ x }}{% with x = 4 %}{{ x }}{% endwith %}{{ x }}
{% for m in messages %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.previtem.role if loop.previtem is defined }}{{ loop.nextitem.role if not loop.last else '-' }}{{ loop.cycle('a', 'b') }}{{ loop.changed(m.role) }} {% endfor %}
{% for m in messages if m.role != 'system' %}{{ loop.index }}{{ m.role }}{% if loop.first %}{% continue %}{% endif %}!{% break %}{% endfor %}
{% macro f(a, b='d', c=none) %}[{{ a }}{{ b }}{{ c }}{{ d }}]{% endmacro %}{{ f(1) }}{{ f(1, c=2) }}{{ f() }}{{ f(b=f('x')) }} {% macro g() %}<{{ caller() }}>{% endmacro %}{% call g() %}x{{ 1 }}{% endcall %} {% macro h(x) %}{{ caller(x) }}{% endmacro %}{% call(y) h(3) %}{{ y }}{% endcall %}
{% macro f(a) %}{% if a > 0 %}{{ a }}{{ f(a - 1) }}{% endif %}{% endmacro %}{{ f(3) }} {% macro w(x) %}{{ x ~ bos_token ~ later }}{% endmacro %}{% set later = 'L' %}{{ w(1) }}
{% set e = '' %}{% set t = 'd' %}{{ e and t }}|{{ e or t }}|{{ t and e }}|{{ {'a': e and t} }}|{{ none and t }}
{{ none < 1 }}
{{ [1] < [2] }} {{ 'a' <= 'b' }} {{ 1 >= 0.5 }} {{ messages | length >= 3 and 1 > 0 }} {{ 7 / 2 * 2 }} {{ 1.0 // 1 }} {{ 5 // 2 // 2 }}
{% filter upper %}a{{ 'b' }}{% endfilter %} {% set x %}a{{ 1 }}{{ none }}{% endset %}{{ x }}{{ x | length }} {% set y | trim %}  b {% endset %}{{ y }}
{# a #}b{#- c -#} d {%- if true -%} e {%+ endif %} f {{- 'g' -}} h {% raw %}{{ x }}{% endraw %} {%raw%} a {%- endraw -%} b
{{ range(3) | list }} {{ range(1, 7, 2) | list }} {{ range(3)[1] }} {{ range(5)[::-1] | list }} {{ strftime_now('%Y') | length }} {{ [1, 2] | length == 2 }} {{ 5 in range(6) }}
{{ messages[0]['content'] | trim | length > 3 and messages | length - 1 }} {{ -messages | length }}
{{ 1 if messages | length > 2 else 0 }} {{ messages | length - 1 }} {{ (messages | length) - 1 }} {{ loop is defined }} {{ not 'a' in 'abc' }} {{ 1 < 2 < 3 }} {{ -2 ** 2 }} {{ 2 + 3 * 4 % 5 }}
{{ messages.append(1) }}
{{ messages[0].update({'a': 1}) }}
{{ ''.__class__ }}|{{ messages.__len__ }}
{{ unknown_function() }}
{{ 'a' | unknown_filter }}
{% if 'a' is unknown_test %}{% endif %}
{% do messages %}
{{ raise_exception('stop') }}
{{ 1 / 0 }}
{{ 1 // 0 }}
{{ 'a'.nothing() }}
{{ 'a'.index('b') }}
{{ [1, 2].index(2) }} {{ [1, 1].count(1) }} {{ {'a': 1}.get('a') }} {{ {'a': {'b': 2}}['a'].b }} {{ {'items': [1]}['items'] }} {{ {'1': 'a', 1: 'b'}[1] }} {{ [1,2,3,] | length }} {{ {'a': 1,}.a }}
{{ 'abc' | first }} {{ 'abc' | last }} {{ ['a', 'b'] | batch(1) | list }} {{ [1, 2, 3] | slice(2) | list }} {{ messages | groupby('role') | length }} {{ 'abc' | center(7) }}| {{ '<b>x</b>' | striptags }}
{% generation %}{% set inner = 1 %}{{ inner }}{% endgeneration %}{{ inner }} {{ '{% generation %}' }}
{{ self.x }} {{ {'a': 1} | tojson | length }} {{ (messages | last).role }} {{ messages | map(attribute='content') | map('length') | sum }} {{ 'abc' | upper | lower ~ 'd' }} {{ true and 'a' ~ 'b' }}
{{ 12345678901234567890123 }} {{ 0x10 }} {{ 1_000 }} {{ 1e3 }} {{ 0.1 + 0.2 }} {{ 1e22 }} {{ 123456789.123 }} {{ 1e15 }} {{ -0.0 }}
{{ True }} {{ False }} {{ None }} {{ none is None }} {{ 'a' if True and not False }} {{ [True, None] }}
""".strip("\n").split("\n")

# White space: whole files, of several lines.
FILES = [
    "{% for m in messages %}\r\n{{ m.role }}\r\n{% endfor %}\r\nend\r\n", "a\rb\r\n\r\nc\n\n", "a\n", "a\n\n", "\n", "{{ 'a\r\nb' }}", "a\r", "{{ 1 }}\r\n",
    "{% if true %}\n  a\n  {% endif %}\n b\n\t{# c #}\n d {% if true %} e\n{% endif %} \n", "  {{ 1 }}\n  {%+ if true %}\n x {%- endif +%}\n y", "{%- if true %}  \n  a  \n{%- endif %}\n\n  b",
    "a {#- c -#} \n b\n{# d #}\n\n{#+ e #}\nf", "{% if true -%}\n\n  a\n\n{%- endif -%}\n\n b", "a\n  {% raw %}\n x {{ y }}\n  {% endraw %}\nb", "{% raw -%}\n x \n{%- endraw %}\n\nb", "x{% set a = 1 %}\n\n{{ a }}\n \n{% set b = 2 %}\t\n{{ b }}", "\u00a0{% if true %}a{% endif %}\u00a0{%- if true %}b{% endif %}", "{{ {'a': {'b': 1}} }}{{ {} }}{{ '}}' }}{% set x = '%}' %}{{ x }}", "{{ 1 }} {% if true %}\n{{ 2 }}\n   {% endif %}{{ 3 }}\n",
    "{% for m in messages -%}\n    {{ m.role }}\n{%- if not loop.last %}, {% endif %}\n{% endfor %}", "line # comment\n# for x in y\n## z\n", "{{\n  'a'\n  ~\n  'b'\n}}\n{{ raise_exception('line 6') }}", "{% macro f() %}\n  x\n{% endmacro %}\n{{ f() }}\n{{- f() -}}\n", "{%if true%}a{%else%}b{%endif%}{{1}}{{-1}}{{- 1}}{#x#}",
]


def main():
    env, rows = environment(), []
    for template in TEMPLATES + FILES:
        row = {"template": template}
        try:
            row["rendered"] = env.from_string(template).render(CONTEXT)
        except Exception as error:
            row["error"] = f"{type(error).__name__}: {error}"
        rows.append(row)
    path = ROOT / "tests" / "fixtures" / "tokenizers" / "templates.json"
    path.write_text(json.dumps({"context": CONTEXT, "cases": rows}, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
