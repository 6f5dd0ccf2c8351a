"""Markdown as models write it, kind and unkind."""

EVERYTHING = """# Title

Hello **world** and `code` with *emphasis*, ~~strike~~ and https://example.com/a.
A new line.

1. one
2. two **bold**
   - nested
   - more

   a paragraph inside
3. three
   ```py
   x = 1
   ```
- [ ] to do
- [x] done

> a quotation **bold**
> > deeper
> - with a list

| name | size |
|------|-----:|
| one  | `1`  |
| two  | **2** |

after the table

```python
def double(x):
    return 2 * x

# the end
```
~~~
no language
~~~

---

the end
"""

KOREAN = """## 언어 모델이란

**언어 모델(Language Model)**은 다음 낱말을 맞히는 *프로그램*입니다.
줄을 바꾸면 그대로 보여야 합니다.

1. **가벼움**: 작은 컴퓨터에서도 돕니다.
2. **"열림"**이라는 뜻은 가중치를 내려받을 수 있다는 말입니다.

| 모델 | 크기 |
|------|-----:|
| 라마 | 1B |
"""

AWKWARD = """text
**bold**은 문장(한국어)이다.
#hashtag
- a
--
- b
1. x
2. y

10) z
***
***em** x*
- ```
  code
  ```
-
- last
```
```

```

```
| a | b |
|---|---|
| 1
Setext
===
"""

REFERENCES = """See [the manual][m] and [m].

A paragraph.

[m]: https://example.com/manual "Manual"
"""

UNCLOSED = "Look:\n\n```js\nlet a = `x`;\n``\n\n    deep\n"

SAMPLES = {
    "everything": EVERYTHING,
    "korean": KOREAN,
    "awkward": AWKWARD,
    "references": REFERENCES,
    "unclosed": UNCLOSED,
    "indented fence": "  ```\n    a\n  b\n c\n ```\nafter",
    "quoted fence": "> ```\n> a\n> ```\nb",
    "lazy numbers": "1. a\n1. b\n\n1. c\n\n   more\n\ntext\n",
}

TYPED = (
    "List<String> names",
    "if a<b and c>d then",
    "<br>",
    "<think>hm</think>",
    "<img src=x onerror=alert(1)>",
    "<b>not bold</b>",
    "<script>alert(1)</script>",
    "<style>@import 'http://x'</style>",
)
"""Shown exactly as typed."""

HOSTILE = (
    "![a](http://127.0.0.1:1/pixel.png)",
    "![a](https://evil.example/pixel.png)",
    "![a](file:///etc/passwd)",
    "![a](//server/share/a.png)",
    "![a](data:image/png;base64,AAAA)",
    "![a](qrc:/a.png)",
    "![a](:/a.png)",
    "![a](/etc/hostname)",
    "[a](file:///etc/passwd)",
    "[a](\\\\\\\\server\\\\share)",
    "[a](javascript:alert(1))",
    "[a](JaVaScRiPt:alert(1))",
    "[a](data:text/html,x)",
    "[a](vbscript:x)",
    "[a](steam://run/1)",
    "[a](smb://server/share)",
    "[a](ssh://host)",
    "[a](relative/path)",
    "[a](qrc:/x)",
    "<javascript:alert(1)>",
    "<file:///etc/passwd>",
    "[a](ms-settings:privacy)",
    "[a](https:///no-host)",
    "[![a](file:///x)](file:///y)",
)
"""Must load nothing and lead nowhere."""
