"""Files of reasons: what a report found, was looked at, and why it stays. Entries are

    backend/store.c  store_commit
        text of the source
        what about it
        : the reason, on one line or
        : on several

with empty lines between them and # in front of remarks. A * in the file, the function, the text or
the third line stands for anything. Nothing is named by its line number: those move.
"""
import re


def pattern(text):
    return re.compile('.*'.join(re.escape(part) for part in text.split('*')) + r'\Z', re.S)


class Entry:
    def __init__(self, lines, path):
        head = lines[0].split()
        why = [l.strip() for l in lines[1:] if l.strip().startswith(':')]
        what = [l.strip() for l in lines[1:] if not l.strip().startswith(':')]
        if len(head) != 2 or len(what) != 2 or not why or not ''.join(why).strip(': '):
            raise SystemExit(f'{path}: not an entry:\n' + '\n'.join(lines))
        self.shown = ' | '.join([*head, *what])
        self.parts = [pattern(p) for p in [*head, *what]]
        self.used = False


class Reasons:
    def __init__(self, path):
        with open(path, encoding='utf-8') as f:
            text = '\n'.join(l.rstrip() for l in f if not l.startswith('#'))
        self.entries = [Entry(block.strip('\n').split('\n'), path)
                        for block in re.split(r'\n\s*\n', text) if block.strip()]

    def find(self, *what):
        """Is there a reason for this one? All that fit count as used."""
        fits = [e for e in self.entries if all(p.match(w) for p, w in zip(e.parts, what))]
        for e in fits:
            e.used = True
        return bool(fits)

    def unused(self):
        return [e.shown for e in self.entries if not e.used]
