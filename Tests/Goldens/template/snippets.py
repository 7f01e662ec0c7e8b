r"""Small templates, one per construct; see make_template.py."""

CONTEXT = {
    "text": "Hello, Wörld! 你好 🙂 e\u0301",
    "quote": "it's \"so\"\\ \n\t\r\x00\x1b\x7f\u00a0\u2028\u00ad\ud7ff",
    "spaces": " \t\n\u00a0\u2003 a b  c\x1c \n",
    "greek": "ΑΣ ΟΔΟΣ Σ ΑΣ.Β ǆ ß ŉ İ",
    "numbers": [3, 1, 2, 10, -5],
    "mixed": [1, 1.0, True, "1", None, 2.5, [1, 2], {"a": 1}],
    "floats": [0.1, 1e16, 1e15, 123456789012345680.0, 1e-5, 0.0001, -0.0, 1e22, 5e-324, 1.7976931348623157e308, 100.0, 2.5, 12345.678],
    "words": ["pear", "Apple", "fig", "apple", "Fig"],
    "people": [
        {"name": "Ann", "age": 30, "job": {"title": "smith"}},
        {"name": "bob", "age": 25, "job": {"title": "Baker"}},
        {"name": "Cid", "age": 30},
    ],
    "empty": [],
    "nothing": None,
    "yes": True,
    "no": False,
    "zero": 0,
    "map": {"b": 1, "a": 2, "C": [1, {"x": None}], "items": "hidden", "get": "shadowed"},
    "lines": "one\ntwo\r\n\n  three\rfour\u2028five\n",
    "html": "<a href='x'>&\"</a>",
}

EXPRESSIONS = r"""
text
text|length
text[0] ~ text[7] ~ text[-1] ~ text[-2]
text[1:4] ~ '|' ~ text[::-1] ~ '|' ~ text[-5:-1:2] ~ '|' ~ text[10:2:-3] ~ '|' ~ text[99:]
[text[100], text[-100]]
[quote]
quote|tojson
quote|tojson(ensure_ascii=true)
text|tojson(true)
spaces.strip() ~ '|' ~ spaces.lstrip() ~ '|' ~ spaces.rstrip() ~ '|' ~ spaces|trim
[spaces.split(), spaces.split(None, 1), spaces.rsplit(None, 1), spaces.split(' '), spaces.rsplit(' ', 2)]
['a,b,,c'.split(','), 'a,b,,c'.split(',', 1), 'a,b,,c'.rsplit(',', 1), ''.split(','), ''.split(), 'aXXbXXc'.split('XX')]
['aaaa'.split('aa'), 'aaa'.rsplit('aa'), 'aaa'.split('aa'), 'ababa'.rsplit('aba', 1)]
'xxhixx'.strip('x') ~ 'xyhixy'.lstrip('yx') ~ 'hi\n\n'.rstrip('\n') ~ '  hi '|trim(' ')
lines.splitlines()
lines.splitlines(true)
['', '\n', 'a\n\nb'].__class__ is defined
''.splitlines() + '\n'.splitlines() + 'a\n\nb'.splitlines()
[text.startswith('Hell'), text.startswith(('x', 'H')), text.endswith('!'), text.startswith('ello', 1), 'abc'.endswith('b', 0, 2), 'abc'.startswith('')]
[text.find('W'), text.find('zz'), 'banana'.rfind('an'), 'banana'.count('an'), 'aaaa'.count('aa'), 'banana'.index('n'), 'aa'.count('')]
'a-b-c'.replace('-', '+') ~ 'a-b-c'.replace('-', '', 1) ~ 'ab'.replace('', '.') ~ 'ab'.replace('', '.', 2) ~ 'aaa'|replace('a', 'b', 2) ~ 5|replace(5, 'x')
['a-b-c'.partition('-'), 'a-b-c'.rpartition('-'), 'abc'.partition('-'), 'abc'.rpartition('-')]
'pre-x'.removeprefix('pre-') ~ 'x.py'.removesuffix('.py') ~ 'x'.removesuffix('xx')
['a'.center(4, '*'), 'ab'.center(5, '*'), 'a'.ljust(3) ~ '|', 'a'.rjust(3, '.'), '-7'.zfill(4), '7'.zfill(3), 'long'.zfill(2)]
greek.lower() ~ '|' ~ greek.upper() ~ '|' ~ greek.title() ~ '|' ~ greek.capitalize() ~ '|' ~ greek.swapcase()
"they're bill's (first-class) friends"|title ~ '|' ~ "they're bill's 1st"|capitalize ~ "they're bill's 1st x".title()
['abc'.isalpha(), 'ab1'.isalpha(), '12'.isdigit(), '½'.isnumeric(), 'a1'.isalnum(), ' \t'.isspace(), ''.isspace(), 'Ab'.islower(), 'AB'.isupper(), 'a1'.islower(), '٣'.isdecimal(), 'é'.isascii()]
', '.join(words) ~ '-'.join('abc') ~ ''.join([])
'{} and {}'.format(1, 'b') ~ '{1}{0}'.format('a', 'b') ~ '{x}{{}}'.format(x=[1, 'q'])
'%s is %d or %.2f %% %r %x' % ('a', 3, 2.675, 'q', 255)
'%s' % 7 ~ '%s %s'|format(1, none)
html|escape ~ html|e ~ (html|safe) ~ ('<b>'|safe + '<i>') ~ ('<i>' + '<b>'|e)
[html|e, 'x'|safe]
'a' 'b' "c"
'\x41\u00e9\U0001F642\n\t\\\'\"\101\q\é'
"tab	and 🙂"
[1 + 2 * 3 - 4 / 2, 7 // 2, -7 // 2, 7 % 3, -7 % 3, 7 % -3, 2 ** 10, 2 ** -1, -2 ** 2, 2 ** 3 ** 2, 10 - 2 - 3]
1 + 2 ~ 'x'
[7.5 // 2, -7.5 // 2, 7.5 % 2, -7.5 % 2, 7 / 2, 4 / 2, 1e3, 0x1F, 0b101, 0o17, 1_000, 1.5e-3, 3.0]
[true + 1, true * 3, 5 - false, -true, +true, +1.5, - 3, --3]
'ab' * 3 ~ [1] * 2 ~ 2 * 'x' ~ (1, 2) * 2 ~ 'a' * 0 ~ 'a' * -1
[[1, 2] + [3], (1,) + (2, 3)]
1 < 2 < 3
[1 < 2 > 3, 1 == 1.0, true == 1, 'a' < 'b', 'B' < 'a', [1, 2] < [1, 3], (1,) == [1], 1 != 2, 2 >= 2, 'é' == 'e\u0301', none == false]
[1 in numbers, 5 not in numbers, 'ell' in text, '' in text, 'b' in map, 'z' in map, 1 in (1, 2), 'a' in 'b', 2 in range(0, 10, 2), 3 in range(0, 10, 2), none in [none]]
[1 and 0, 0 or 'x', not 1, not none, 1 and 2 and 3, '' or none or [], not 1 == 2]
'a' if yes else 'b'
'a' if no
['a' if no is defined, ('b' if no) is defined]
'a' if no else 'b' if no else 'c'
mixed
mixed|string
floats
floats|tojson
floats|map('string')|join(' ')
mixed|tojson
map|tojson(indent=2)
map|tojson(indent=2, sort_keys=true)
map|tojson(separators=(',', ':'))
map|tojson(indent=1, separators=[', ', ' = '])
{}|tojson(indent=2) ~ []|tojson(indent=2) ~ {'a': {}}|tojson(indent=2) ~ [[]]|tojson(indent=0)
{1: 'a', none: 2, true: 3, 1.5: 4, 'k': (1, 2)}|tojson
{1: 'a', true: 'b', 1.0: 'c', 'x': (1,), (1, 2): {}}
[map.items is defined, map['items'], map.get('b'), map['get'], map.get('z'), map.get('z', 'dflt'), map.b, map['b'], map.zz is defined]
[map.items(), map.keys(), map.values()]
map.items()|list ~ map|items|list ~ map|list ~ map.keys()|list|sort
map|dictsort ~ map|dictsort(true) ~ {'b': 1, 'a': 2}|dictsort(by='value', reverse=true) ~ map|length
[map.keys()|length, map.items()|first, map.values()|last, 'b' in map.keys()]
dict(a=1, b=2) ~ dict([('x', 1), ['y', 2]]) ~ dict({'q': 1}, r=2) ~ dict(map).b
[{'a': 1} == {'a': 1.0}, {'a': 1, 'b': 2} == {'b': 2, 'a': 1}, {'a': 1} == {'a': 2}]
undefined_thing
[undefined_thing]
[undefined_thing is defined, undefined_thing is undefined, undefined_thing == other_undefined, undefined_thing|default('d'), undefined_thing or 'x', undefined_thing|length, undefined_thing|list, undefined_thing is iterable, not undefined_thing]
undefined_thing ~ 'x' ~ undefined_thing|string ~ undefined_thing|trim ~ undefined_thing|lower ~ undefined_thing|upper
map.nope ~ people[7] ~ text.nope ~ nothing.nope ~ (5).nope
[map.nope is none, map.nope == none, nothing|default('d'), nothing|default('d', true), ''|d('e', boolean=true), zero|default(1)]
[nothing is none, nothing is not none, 1 is number, true is number, true is integer, 1 is integer, 1.0 is float, 1 is float, true is boolean, 0 is boolean, 'a' is string, map is mapping, [] is mapping]
[[] is sequence, map is sequence, 'a' is sequence, 1 is sequence, (1,) is sequence, range(3) is sequence, map.items() is sequence, none is iterable, 1 is iterable, [] is iterable, undefined_thing is sequence]
[yes is true, yes is false, no is false, 1 is true, 0 is false, none is false, 3 is odd, 3 is even, 4 is divisibleby 2, 4 is divisibleby(3), 3 is eq 3, 3 is equalto(4), 3 is ne 4, 3 is lt 4, 3 is gt 4, 3 is le 3, 3 is ge 4, 3 is lessthan 4, 3 is greaterthan 2]
[1 is in [1, 2], 'a' is not in 'bcd', yes is sameas true, 1 is sameas true, none is sameas none, 'trim' is filter, 'nope' is filter, 'odd' is test, 'a' is lower, 'A' is upper, range is callable, 1 is callable]
[text is not string, text is defined and yes, text is string or no, not text is string]
numbers|sort ~ numbers|sort(reverse=true) ~ numbers|max ~ numbers|min ~ numbers|sum ~ []|sum ~ [0.5, 1]|sum(start=10)
words|sort ~ words|sort(case_sensitive=true) ~ words|unique|list ~ words|unique(true)|list ~ words|max ~ words|min
people|sort(attribute='age')|map(attribute='name')|list ~ people|sort(attribute='age,name', reverse=true)|map(attribute='name')|join(',')
people|map(attribute='job', default='none')|list ~ people|map(attribute='name.0')|list ~ people|sum(attribute='age') ~ people|max(attribute='age')
people|selectattr('job')|map(attribute='name')|list ~ people|rejectattr('job')|map(attribute='name')|list ~ people|selectattr('age', 'gt', 26)|list|length ~ people|selectattr('job', 'defined')|selectattr('job.title', 'equalto', 'smith')|map(attribute='name')|first
numbers|select('odd')|list ~ numbers|reject('odd')|list ~ numbers|select('gt', 1)|list ~ mixed|select|list|length ~ numbers|select('in', [1, 2])|list
words|map('upper')|join(' ') ~ words|map('replace', 'p', 'b')|list ~ people|join(', ', attribute='name') ~ [[1, 2], [3]]|map('sum')|list
(numbers|select('odd') and true) ~ (numbers|map('abs')|list)
numbers|first ~ numbers|last ~ text|first ~ text|last ~ map|first ~ map|last ~ (empty|first is defined) ~ (empty|last) ~ (numbers|select('odd')|first)
numbers|reverse|list ~ 'abc'|reverse ~ map|reverse|list ~ (1, 2)|reverse|list
'abc'|list ~ (1, 2)|list ~ range(3)|list ~ map|list ~ ''|list
range(5) ~ range(1, 9, 3) ~ range(5)|list ~ range(5, 0, -2)|list ~ range(3)|length ~ range(9)[2:4]|list ~ range(10)[-1]
numbers[1:3] ~ numbers[::-1] ~ numbers[-2:] ~ numbers[:-2] ~ numbers[5:1] ~ numbers[::2] ~ numbers[::-2] ~ numbers[1:none] ~ (1, 2, 3)[1:]
numbers[0] ~ numbers[-1] ~ (1, 2)[0] ~ numbers.0 ~ [[1, [2]]][0][1][0] ~ map.C.1.x ~ map['C'][0]
[numbers.count(3), numbers.index(2), (1, 1).count(1), numbers.append is defined, map.update is defined]
'42'|int ~ ' -7 '|int ~ '3.9'|int ~ 'x'|int ~ 'x'|int(5) ~ 3.9|int ~ -3.9|int ~ '0x1f'|int(base=16) ~ none|int(1) ~ true|int ~ '1_000'|int ~ '1e3'|int ~ []|int
'1.5'|float ~ 'x'|float ~ 'x'|float(2.5) ~ 3|float ~ '1e400'|float ~ ' .5 '|float ~ '1.'|float ~ 'nan'|float ~ '-inf'|float ~ '1_0.5'|float ~ '0x10'|float
2.5|round ~ 3.5|round ~ 2.675|round(2) ~ 2.1|round(method='ceil') ~ 2.19|round(1, 'floor') ~ 5|round ~ -2.5|round ~ 1234.5678|round(2) ~ true|round
-5|abs ~ (-5)|abs ~ -2.5|abs ~ true|abs
'a\nb\n\nc'|indent ~ '|' ~ 'a\nb'|indent(2, true) ~ '|' ~ 'a\n\nb\n'|indent(1, blank=true) ~ '|' ~ 'a\nb'|indent('> ') ~ '|' ~ ''|indent(2, true)
numbers|batch(2)|list ~ numbers|batch(2, 'x')|list ~ [[1, 2], [3]]|map('list')|list
numbers|join ~ numbers|join(', ') ~ mixed|join('|') ~ empty|join('x') ~ 'abc'|join('-')
(1) ~ (1,) ~ () ~ (1, 2) ~ [1,] ~ {'a': 1,}
[] ~ {} ~ [[]] ~ [none, true, 1.0, 'a']
{'a': 1}.a ~ {'a': 1}['a'] ~ 'abc'.upper().lower() ~ [1, 2][1] ~ {'f': 'x'}.f.upper()
none ~ true ~ False ~ None ~ True
text|upper|lower|title|replace('H', 'J')|trim|length
-1|abs ~ 2 + 3|string ~ (2 + 3)|string ~ 'a' ~ 1 + 2 ~ 'b'
- 2|abs
not yes|string
1 if yes else 2|string ~ 'x'
'x' in 'xyz' and 'y' not in 'abc'
namespace(a=1).a ~ namespace({'b': 2}).b ~ namespace(a=1, b=[2])
[namespace(a=1)['a'], namespace().x is defined, namespace() == namespace()]
strftime_now('%Y-%m-%d %H:%M:%S %y %b %B %a %A %j %p %I %e %-d %-m %d %F %T %D %R %u %w %% %c %x %X %h')
'{{ not a tag }}' ~ '%}' ~ "}}" ~ '#}'
{'}}': '}}'}['}}']
text is defined is true
'%s' % none ~ '%s' % [1] ~ '%s-%s' % ('a', 'b')
'abc'|attr('upper') is defined
map|attr('b') is defined
[1, 2, 3]|select('>', 1)|list ~ [1]|select('==', 1)|list
loop is defined
self_made is defined
text.__class__ is defined
9007199254740993 ~ ' ' ~ 9223372036854775807 ~ ' ' ~ (-9223372036854775807 - 1)
9007199254740993 == 9007199254740992.0
[1e308 * 10, -1e308 * 10, 1e308 * 10 - 1e308 * 10]|tojson
1 / 3 ~ ' ' ~ 2 / 3 ~ ' ' ~ 1e100 ~ ' ' ~ 123456.0 ~ ' ' ~ 1.0e-10 ~ ' ' ~ 10 ** 15 / 10
"a" ~ ("b" if zero else "c") ~ ("d" if "x" else "e")
raise_exception('no ' ~ 7)
undefined_thing.attribute
undefined_thing[0]
undefined_thing + 1
undefined_thing < 1
undefined_thing()
map.nope.deeper
nothing + 1
'a' + 1
1 + 'a'
1 / 0
1 // 0
1 % 0
0 ** -1
nothing|length
5|length
nothing|list
1 < 'a'
[1] < (1,)
'a' in 5
none in 'abc'
{[1]: 2}
numbers|map('upper')|length
numbers|select('odd')|length
nothing.strip()
text.strip(1)
text.nope()
5()
text()
', '.join(numbers)
range(0, 200000)|length
range(1, 2, 0)
namespace(_x=1)
{'a': 1}|tojson(nope=1)
'a'|upper('x')
numbers.append(1)
map.update({})
undefined_thing|tojson
[undefined_thing]|tojson
range(3)|tojson
numbers[::0]
numbers['a':]
'abc'.split('')
'a'|int.real
5 is nope
5|nope
1 +
(1
[1, 2
{'a' 1}
a b
'unclosed
"""

BLOCKS = [
    "{% if yes %}a{% elif no %}b{% else %}c{% endif %}",
    "{% if no %}a{% elif yes %}b{% else %}c{% endif %}{% if no %}a{% elif zero %}b{% else %}c{% endif %}",
    "{% if yes -%}  a  {%- endif %} b",
    "  {% if yes %}\n  a\n  {% endif %}\n  b\n\n",
    "  {%+ if yes %}\n  a\n  {%+ endif +%}\n  b\n",
    "x  {% if yes %}\n  a\n  {% endif %}  \n  b",
    "\n\n{%- if yes -%}\n\n a \n\n{%- endif -%}\n\n",
    "a {{- ' b ' -}} c {{ 1 -}}\n\n d",
    "a\n  {{ 1 }}\n  {{- 2 }}\n",
    "a  {# comment #}\n  b {#- c -#}  d\n  {# e #}\n  f {#+ g +#}\n h",
    "{# {{ }} {% #}x{#- -#}",
    "{% raw %}{{ x }} {% if %}{% endraw %}y",
    " {% raw -%}  a {{ b }}  {%- endraw %}\n  c",
    "{%- raw %}\n  x\n  {% endraw %}\n  y\n",
    "a\r\nb\rc\n{% if yes %}\r\nd{% endif %}\r\n",
    "trailing\n", "trailing\n\n", "\n", "", "{{ 1 }}\n", "{% if yes %}\n{% endif %}\n",
    "{% for n in numbers %}{{ n }}{{ ',' if not loop.last }}{% endfor %}",
    "{% for n in numbers %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.cycle('a', 'b') }}{{ loop.depth }} {% endfor %}",
    "{% for n in numbers %}[{{ loop.previtem }}<{{ n }}>{{ loop.nextitem }}]{% endfor %}",
    "{% for n in [1, 1, 2, 2, 1] %}{{ loop.changed(n) }} {% endfor %}",
    "{% for n in empty %}x{% else %}none{% endfor %}{% for n in nothing or [] %}x{% else %}none{% endfor %}",
    "{% for n in numbers if n > 1 %}{{ loop.index }}/{{ loop.length }}:{{ n }} {% else %}none{% endfor %}",
    "{% for n in numbers if n > 99 %}{{ n }}{% else %}none{% endfor %}",
    "{% for n in numbers %}{% if n == 2 %}{% continue %}{% endif %}{% if n == 10 %}{% break %}{% endif %}{{ n }} {% endfor %}",
    "{% for n in [1] %}{% continue %}{% else %}else{% endfor %}|{% for n in [1] %}{% break %}{% else %}else{% endfor %}",
    "{% for k, v in map.items() %}{{ k }}={{ v }};{% endfor %}",
    "{% for k in map %}{{ k }}{% endfor %}{% for c in 'añ🙂' %}[{{ c }}]{% endfor %}{% for u in undefined_thing %}x{% endfor %}",
    "{% for a, (b, c) in [[1, [2, 3]], (4, 'xy')] %}{{ a }}{{ b }}{{ c }} {% endfor %}",
    "{% for a in [1, 2] %}{% for b in [3, 4] %}{{ loop.index }}{{ a }}{{ b }} {% endfor %}{{ loop.index }}{% endfor %}",
    "{% for x in 1, 2, 3 %}{{ x }}{% endfor %}{% for x in (1,) %}{{ x }}{% endfor %}",
    "{% for a, b in [[1]] %}x{% endfor %}",
    "{% for a, b in [[1, 2, 3]] %}x{% endfor %}",
    "{% for a in 5 %}x{% endfor %}",
    "{% for a in nothing %}x{% endfor %}",
    "{% set x = 1 %}{% for n in numbers %}{{ x }}{% set x = n %}{{ x }} {% endfor %}{{ x }}",
    "{% set ns = namespace(n=0, seen=[]) %}{% for n in numbers %}{% set ns.n = ns.n + n %}{% set ns.seen = ns.seen + [n] %}{% endfor %}{{ ns.n }}{{ ns.seen }}",
    "{% set ns = namespace(stop=false) %}{% for n in numbers if not ns.stop %}{{ n }} {% if n == 1 %}{% set ns.stop = true %}{% endif %}{% endfor %}",
    "{% set ns = namespace(stop=false) %}{% for n in numbers if not ns.stop %}{{ n }}{{ loop.last }} {% if n == 1 %}{% set ns.stop = true %}{% endif %}{% endfor %}",
    "{% set ns = namespace(n=0) %}{% set ns._x = 1 %}",
    "{% set ns = namespace(n=0) %}{% if ns.m is undefined %}{% set ns.m = ns.n %}{% endif %}{{ ns.m }}{{ ns }}",
    "{% set x.y = 1 %}",
    "{% set map.y = 1 %}",
    "{% set a, b = 1, 2 %}{{ a }}{{ b }}{% set (c, d) = [3, 4] %}{{ c }}{{ d }}{% set e = 1, %}{{ e }}",
    "{% set x %}  a {{ 1 + 1 }}\n{% endset %}[{{ x }}]{% set y | upper | trim %} b {% endset %}[{{ y }}]",
    "{% set x = 'a' %}{% set x %}{% set x = 'b' %}{{ x }}{% endset %}{{ x }}",
    "{% if yes %}{% set x = 5 %}{% endif %}{{ x }}",
    "{% if tools is not defined %}{% set tools = none %}{% endif %}{{ tools is none }}",
    "{% for n in [1] %}{% if n == 2 %}{% set text = 1 %}{% endif %}{{ text }}{% endfor %}",
    "{% macro m(a, b=2, c=a ~ '!') %}[{{ a }}{{ b }}{{ c }}]{% endmacro %}{{ m(1) }}{{ m(1, 3) }}{{ m(b=5, a=4) }}{{ m(1, 2, 3) }}{{ m() }}",
    "{% macro m(a) %}{{ a }}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, 3, x=4) }}{{ m() }}",
    "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, 2) }}",
    "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(b=2) }}",
    "{% macro down(n) %}{{ n }}{% if n > 0 %} {{ down(n - 1) }}{% endif %}{% endmacro %}{{ down(4) }}",
    "{% macro m() %}{{ later }}{% set later = 2 %}{{ later }}{% endmacro %}{% set later = 1 %}{{ m() }}{{ later }}",
    "{% macro m() %}{{ x is defined }}{% endmacro %}{% for x in [1] %}{{ m() }}{% endfor %}",
    "{% macro m() %}  a\n  {%- if yes %} b{% endif %}\n{% endmacro %}[{{ m() }}]{{ m()|length }}{{ m() is string }}{{ m.name }}",
    "{% macro m(x) %}<{{ caller(x, 'y') }}>{% endmacro %}{% call(a, b='z') m(1) %}{{ a }}{{ b }}{{ text[0] }}{% endcall %}",
    "{% macro m() %}<{{ caller() }}>{% endmacro %}{% call m() %}a{% set q = 1 %}{{ q }}{% endcall %}{{ q }}",
    "{% macro m() %}x{% endmacro %}{% call m() %}a{% endcall %}",
    "{% macro m() %}{{ caller is defined }}{% endmacro %}{{ m() }}",
    "{% macro m(a, a) %}{% endmacro %}",
    "{% macro m(a=1, b) %}{% endmacro %}",
    "{% filter upper %}a{{ text[1] }}{% endfilter %}{% filter trim | replace('a', 'b') %}  aa {% endfilter %}",
    "{% with a = 1, b = 2 %}{{ a }}{{ b }}{% endwith %}{{ a is defined }}{% with %}{% set z = 1 %}{{ z }}{% endwith %}{{ z is defined }}",
    "{% generation %}a{% set g = 1 %}{{ g }}{% endgeneration %}{{ g is defined }}",
    "{%- generation -%}  a  {%- endgeneration -%}  b",
    "{% for m in numbers %}{% generation %}{{ m }}{{ loop.index }}{% endgeneration %}{% endfor %}",
    "{% set text = text|upper %}{{ text }}",
    "{% set f = text.upper %}{{ f() }}{% set g = map.get %}{{ g('b') }}",
    "{% set it = numbers|select('odd') %}{{ it|list }}{{ it|list }}",
    "{% set l = [1, 2] %}{% set l = l + [3] %}{{ l }}{{ l|length }}",
    "{{ [1, 2,\n 3] }}\n{{ {'a':\n 1} }}",
    "{%if yes%}a{%endif%}{{1}}{{-1}}{{ -1 }}",
    "{% if not yes or (no and undefined_thing.x) %}a{% else %}b{% endif %}",
    "{% if (text is defined and text) and not (nothing is not none) %}a{% endif %}",
    "{% if 'a' in map and map['a'] is number %}a{% endif %}",
    "{{ '{%' }}{{ '{{' }}{{ \"{#\" }}",
    "{ { a } } {  % b %} { # c",
    "100% sure {x} }} %} #}",
    "{{ text }}{{ text }}{{ }}",
    "{% if %}a{% endif %}", "{% if yes %}a", "{% endif %}", "{% if yes %}a{% endfor %}{% endif %}",
    "{% for x numbers %}{% endfor %}", "{% for 1 in numbers %}{% endfor %}", "{% set 1 = 2 %}",
    "{% set true = 2 %}", "{% nope %}", "{% break %}", "{{ a", "{% if yes", "{# a", "{% raw %}a",
    "{{ 1 }} }}{{ ) }}", "{{ (1] }}", "{{ a.1b }}", "{{ 1..x }}", "{{ x is defined is none }}",
    "{{ f(a=1, 2) }}", "{{ f(**map, *numbers) }}", "{{ f(a=1, a=2) }}", "{{ '\\x4' }}", "{{ $ }}",
    "{% macro %}{% endmacro %}", "{% set %}a{% endset %}", "{% call 5 %}{% endcall %}",
    "{{ dict(*[[['a', 1]]]) }}{{ dict(**{'z': 2}) }}{{ range(*[1, 4])|list }}",
    "{% for i in range(3) %}{{ loop.index0 }}{% for j in range(loop.index) %}{{ j }}{% endfor %};{% endfor %}",
    "{% for a in [0, 1] %}{{ loop.nextitem is defined }}{{ loop.previtem is defined }}{% endfor %}",
    "{%- for m in people %}\n    {%- if loop.first %}\n        {{- m.name }}\n    {%- else %}\n        {{- ', ' + m.name }}\n    {%- endif %}\n{%- endfor %}\n",
    "{% if yes %}{{ 5|unknown_filter if no }}{% endif %}",
    "{% if no %}{{ 5|unknown_filter }}{{ 5 is unknown_test }}{% endif %}ok",
]

SNIPPETS = ["{{ " + line + " }}" for line in EXPRESSIONS.strip("\n").split("\n")] + BLOCKS
