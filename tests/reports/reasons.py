"""Files of reasons: what a report found, was looked at, and why it stays. Entries are

    backend/store.c  store_commit
        text of the source
        what about it
        : the reason, on one line or
        : on several

with empty lines between them and # in front of remarks; several pairs of text and what about it may
share a reason. A * in the file, the function, the text or
the third line stands for anything. Nothing is named by its line number: those move.
"""
import re


def pattern(text):
    return re.compile('.*'.join(re.escape(part) for part in text.split('*')) + r'\Z', re.S)


class Entry:
    def __init__(self, parts):
        self.shown = ' | '.join(parts)
        self.parts = [pattern(p) for p in parts]
        self.used = False


def entries_of(block, path):
    lines = [l.strip() for l in block.strip('\n').split('\n')]
    head = lines[0].split()
    why = [l for l in lines[1:] if l.startswith(':')]
    what = [l for l in lines[1:] if not l.startswith(':')]
    if len(head) != 2 or not what or len(what) % 2 or not ''.join(why).strip(': '):
        raise SystemExit(f'{path}: not an entry:\n{block}')
    return [Entry([*head, *what[i:i + 2]]) for i in range(0, len(what), 2)]


class Reasons:
    def __init__(self, path):
        with open(path, encoding='utf-8') as f:
            text = '\n'.join(l.rstrip() for l in f if not l.startswith('#'))
        self.entries = [e for block in re.split(r'\n\s*\n', text) if block.strip()
                        for e in entries_of(block, path)]

    def find(self, *what):
        """Is there a reason for this one? All that fit count as used."""
        fits = [e for e in self.entries if all(p.match(w) for p, w in zip(e.parts, what))]
        for e in fits:
            e.used = True
        return bool(fits)

    def unused(self):
        return [e.shown for e in self.entries if not e.used]
