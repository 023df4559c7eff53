"""Finds the places of a C file where a small mistake can be made, and writes the file anew with all
of these mistakes in it, each of which can be switched on when the program starts.

A place that may be wrong in two ways becomes

    (MUTANT(7) ? (wrong) : MUTANT(8) ? (wrong differently) : (as it was))

where MUTANT(n) of mutant.h notes that place 7 was reached and asks whether NVKEEP_MUTANT is 7. So one
build serves all mutants. What a constant expression must be (case labels, static initialisers, array
sizes, enumerations) cannot be made so and is counted as not done, as is what a macro expands to.

The places come from clang's syntax tree (-ast-dump=json).
"""
import json
import re
import subprocess
import sys
from dataclasses import dataclass

sys.setrecursionlimit(20000)

BOUNDARY = {'<': '<=', '<=': '<', '>': '>=', '>=': '>'}
EQUALITY = {'==': ('<=', '>='), '!=': ('<', '>')}
ARITHMETIC = {'+': '-', '-': '+', '*': '+', '/': '*', '%': '/', '<<': '>>', '>>': '<<',
              '&': '|', '|': '&', '^': '|'}
COMPOUND = {'+=': '-=', '-=': '+=', '*=': '+=', '/=': '*=', '%=': '/=', '<<=': '>>=', '>>=': '<<=',
            '&=': '|=', '|=': '&=', '^=': '|='}
TRANSPARENT = ('ParenExpr', 'ImplicitCastExpr')
STATEMENT_EXPRESSIONS = ('BinaryOperator', 'CompoundAssignOperator', 'CallExpr', 'UnaryOperator')
LOOPS = ('ForStmt', 'WhileStmt', 'DoStmt')


@dataclass
class Mutant:
    number: int
    file: str
    function: str
    text: str      # what it is changed in, with single spaces
    change: str
    nth: int       # among those that are equal in all of this
    version: str   # of the function's text

    def key(self):
        return (self.file, self.function, self.text, self.change, str(self.nth))


def squeeze(text):
    return re.sub(r'\s+', ' ', text).strip()


def skip_parens(node):
    while node['kind'] in TRANSPARENT and len(node.get('inner', [])) == 1:
        node = node['inner'][0]
    return node


def type_of(node):
    t = node.get('type', {})
    return t.get('desugaredQualType', t.get('qualType', ''))


class Source:
    """One C file and its syntax tree."""

    def __init__(self, path, name, flags, first_number):
        self.name = name
        with open(path, 'rb') as f:
            self.text = f.read()
        if not self.text.isascii():
            raise ValueError(f'{name}: not ASCII')
        self.text = self.text.decode()
        tree = subprocess.run(['clang', *flags, '-fsyntax-only', '-w', '-Xclang', '-ast-dump=json', path],
                              check=True, capture_output=True).stdout
        self.path = path
        self.tree = json.loads(tree)
        self.next = first_number
        self.mutants = []
        self.not_done = {}
        self.seen = {}
        self.around = []  # the nodes around the one in work, innermost last
        self.function = self.version = None

    # ---- where nodes are ----

    def macro_end(self, at):
        """Behind the macro call that begins at `at`."""
        end = re.compile(r'\w*').match(self.text, at).end()
        opened = re.compile(r'\s*\(').match(self.text, end)
        if not opened:
            return end
        depth, i = 1, opened.end()
        while depth:
            c = self.text[i]
            if c in '"\'':
                i = re.compile(r'(["\'])(\\.|(?!\1).)*\1').match(self.text, i).end()
                continue
            depth += (c == '(') - (c == ')')
            i += 1
        return i

    def span(self, node):
        """(begin, end, all of it comes out of a macro), or None without a place in this file."""
        r = node.get('range', {})
        begin, end = r.get('begin', {}), r.get('end', {})
        if 'includedFrom' in begin or 'includedFrom' in begin.get('expansionLoc', {}):
            return None
        if 'expansionLoc' in begin:
            b = begin['expansionLoc']['offset']
        elif 'offset' in begin:
            b = begin['offset']
        else:
            return None
        if 'expansionLoc' in end:
            at = end['expansionLoc']['offset']
            e = self.macro_end(at)
        elif 'offset' in end:
            at = end['offset']
            e = at + end['tokLen']
        else:
            return None
        return b, e, 'expansionLoc' in begin and at == b

    def raw(self, node):
        s = self.span(node)
        return self.text[s[0]:s[1]]

    def opaque(self, node):
        s = self.span(node)
        return s is None or s[2] or s[1] <= s[0]

    # ---- mutants ----

    def skipped(self, why):
        self.not_done[why] = self.not_done.get(why, 0) + 1

    def add(self, node, change):
        text = squeeze(self.raw(node))
        if len(text) < 12:
            around = [squeeze(self.raw(n)) for n in self.around if n['kind'] != 'CompoundStmt']
            longer = [t for t in around if len(t) > len(text) + 4]
            text = f'{text} in {longer[-1]}' if longer else text
        text = text[:160]
        same = (self.function, text, change)
        self.seen[same] = self.seen.get(same, 0) + 1
        m = Mutant(self.next, self.name, self.function, text, change, self.seen[same], self.version)
        self.mutants.append(m)
        self.next += 1
        return m.number

    def choice(self, alternatives, otherwise):
        """alternatives: (number, C text)"""
        if not alternatives:
            return otherwise
        return '(' + ''.join(f'MUTANT({n}) ? ({t}) : ' for n, t in alternatives) + f'({otherwise}))'

    def with_children(self, node, rewrite):
        """The text of a node, with its children rewritten by rewrite(child)."""
        begin, end, _ = self.span(node)
        out, at = [], begin
        self.around.append(node)
        children = [c for c in node.get('inner', []) if c.get('kind') and self.span(c)]
        for c in sorted(children, key=lambda c: self.span(c)[0]):
            b, e, _ = self.span(c)
            if b < at or e > end:
                continue
            out += [self.text[at:b], rewrite(c)]
            at = e
        self.around.pop()
        return ''.join(out) + self.text[at:end]

    def inside(self, node):
        return self.with_children(node, self.write)

    def stuck(self, node, values):
        """A condition that comes out the same always."""
        raw = self.raw(node)
        names = {0: 'never', 1: 'always'}
        return [(self.add(node, names[v]), f'(void)({raw}), {v}') for v in values]

    def leaf(self, node, in_loop=False):
        """What is asked whether it is true, where no operator of its own does the asking."""
        inner = skip_parens(node)
        if self.opaque(inner):
            if inner['kind'] in ('CallExpr', 'DeclRefExpr', 'MemberExpr'):
                return self.choice(self.stuck(inner, (0, 1)), self.raw(node))
            return self.raw(node)
        if inner['kind'] == 'BinaryOperator' and inner['opcode'] in ('&&', '||', '<', '>', '<=', '>=', '==', '!='):
            return self.write(node, in_loop)
        if inner['kind'] == 'UnaryOperator' and inner['opcode'] == '!':
            return self.write(node)
        if inner['kind'] == 'IntegerLiteral':
            return self.write(node)
        return self.choice(self.stuck(node, (0,) if in_loop else (0, 1)), self.inside(node))

    def relation(self, node, in_loop):
        left, right = node['inner']
        op, l, r = node['opcode'], self.raw(left), self.raw(right)
        bare_right = skip_parens(right)
        zero = bare_right['kind'] == 'IntegerLiteral' and bare_right['value'] == '0'
        number = not ('*' in type_of(left) or '*' in type_of(right))
        alternatives = []
        result = op == '<' and zero and skip_parens(left)['kind'] == 'CallExpr'
        if op in BOUNDARY and not result:
            alternatives.append(BOUNDARY[op])
        if op in EQUALITY and number and not zero:
            alternatives += EQUALITY[op]
        made = [(self.add(node, f'{op} to {other}'), f'{l} {other} {r}') for other in alternatives]
        made += self.stuck(node, (0,) if in_loop else (0, 1))
        # A result is 0 or -1: compared with 1 it is only once more "always".
        return self.choice(made, f'{self.write(left)} < 0' if result else self.inside(node))

    def logical(self, node):
        left, right = node['inner']
        op = node['opcode']
        other = '||' if op == '&&' else '&&'
        made = [(self.add(node, f'{op} to {other}'), f'({self.raw(left)}) {other} ({self.raw(right)})')]
        between = self.text[self.span(left)[1]:self.span(right)[0]]
        self.around.append(node)
        left, right = self.leaf(left), self.leaf(right)
        self.around.pop()
        return self.choice(made, left + between + right)

    def binary(self, node, in_loop=False):
        op = node['opcode']
        left, right = node['inner']
        if op in BOUNDARY or op in EQUALITY:
            return self.relation(node, in_loop)
        if op in ('&&', '||'):
            return self.logical(node)
        if op not in ARITHMETIC or ('*' in type_of(left) and '*' in type_of(right)):
            return self.inside(node)
        if '*' in type_of(right):
            return self.inside(node)
        made = [(self.add(node, f'{op} to {ARITHMETIC[op]}'),
                 f'({self.raw(left)}) {ARITHMETIC[op]} ({self.raw(right)})')]
        return self.choice(made, self.inside(node))

    def constant(self, node):
        raw = self.raw(node)
        if node['kind'] != 'IntegerLiteral':
            return self.choice([(self.add(node, 'one more'), f'{raw} + 1')], raw)
        value = int(node['value'])
        others = [v for v in (value + 1, 0, 1) if v != value]
        others = list(dict.fromkeys(others))
        return self.choice([(self.add(node, f'to {v}'), str(v)) for v in others], raw)

    def statement(self, node):
        """An expression that stands as a statement."""
        if self.opaque(node):
            self.skipped('statements made by macros')
            return self.raw(node)
        made = [(self.add(node, 'deleted'), '(void)0')]
        if node['kind'] == 'CompoundAssignOperator':
            op = node['opcode']
            left, right = node['inner']
            made.append((self.add(node, f'{op} to {COMPOUND[op]}'),
                         f'(void)({self.raw(left)} {COMPOUND[op]} {self.raw(right)})'))
        return self.choice(made, f'(void)({self.inside(node)})')

    def returned(self, node):
        value = node['inner'][0] if node.get('inner') else None
        if not value or self.span(value) is None:
            return self.raw(node)
        raw = self.raw(value)
        kind = self.returns
        if kind in ('bool', '_Bool'):
            if raw in ('true', 'false'):
                made = self.stuck(value, (0,) if raw == 'true' else (1,))
                return f'return {self.choice(made, raw)}'
            return f'return {self.leaf(value)}'
        if kind != 'int':
            return self.inside(node)
        if raw == '-1':
            made = [(self.add(node, 'returns 0'), '0')]
            return f'return {self.choice(made, raw)}'
        if raw == '0':
            made = [(self.add(node, 'returns -1'), '-1')]
            return f'return {self.choice(made, raw)}'
        made = [(self.add(node, 'returns 0'), f'(void)({raw}), 0')]
        return f'return {self.choice(made, self.write(value))}'

    def condition_of(self, node):
        """The child that decides, of a statement or of ?:"""
        inner = node['inner']
        if node['kind'] == 'ForStmt':
            return inner[2] if inner[2].get('kind') else None
        if node['kind'] == 'DoStmt':
            return inner[1]
        return inner[0]

    def deciding(self, node):
        condition = self.condition_of(node)
        statements = node['inner'][1:] if node['kind'] in ('IfStmt', 'WhileStmt') else \
            node['inner'][4:] if node['kind'] == 'ForStmt' else \
            node['inner'][:1] if node['kind'] == 'DoStmt' else []

        def rewrite(c):
            if c is condition:
                return self.leaf(c, node['kind'] in LOOPS)
            return self.body(c) if any(c is s for s in statements) else self.write(c)
        return self.with_children(node, rewrite)

    def body(self, node):
        """A child where a statement stands."""
        return self.statement(node) if node['kind'] in STATEMENT_EXPRESSIONS else self.write(node)

    def block(self, node):
        return self.with_children(
            node, lambda c: self.write(c) if c['kind'] == 'ConstantExpr' else self.body(c))

    def write(self, node, in_loop=False):
        kind = node.get('kind')
        if self.opaque(node):
            if kind not in TRANSPARENT and kind != 'DeclRefExpr':
                self.skipped('expressions made by macros')
            return self.raw(node)
        if kind == 'VarDecl' and node.get('storageClass') == 'static':
            self.skipped('static initialisers')
            return self.raw(node)
        if kind == 'ConstantExpr':
            self.skipped('case labels')
            return self.raw(node)
        if kind in ('UnaryExprOrTypeTraitExpr', 'StaticAssertDecl', 'RecordDecl', 'EnumDecl', 'StmtExpr',
                    'OffsetOfExpr'):
            return self.raw(node)
        if kind == 'DeclStmt' and any(c.get('kind') == 'VarDecl' and c.get('storageClass') == 'static'
                                      for c in node['inner']):
            self.skipped('static initialisers')
            return self.raw(node)
        if kind == 'ImplicitCastExpr' and node.get('castKind') == 'NullToPointer':
            return self.raw(node)
        if kind == 'InitListExpr' and re.fullmatch(r'\{\s*0\s*\}', self.raw(node)):
            return self.raw(node)
        if kind == 'BinaryOperator':
            return self.binary(node, in_loop)
        if kind == 'UnaryOperator' and node['opcode'] == '!':
            return '!' + self.leaf(node['inner'][0])
        if kind == 'IntegerLiteral':
            return self.constant(node)
        if kind == 'DeclRefExpr' and node['referencedDecl']['kind'] == 'EnumConstantDecl':
            return self.constant(node)
        if kind == 'ReturnStmt':
            return self.returned(node)
        if kind in ('IfStmt', 'ConditionalOperator', *LOOPS):
            return self.deciding(node)
        if kind in ('CompoundStmt', 'CaseStmt', 'DefaultStmt', 'LabelStmt'):
            return self.block(node)
        return self.inside(node)

    # ---- the file ----

    def functions(self):
        """Definitions in this file itself: the tree says the file only where it changes."""
        current = [None]

        def note(loc):
            for part in (loc.get('spellingLoc'), loc.get('expansionLoc'), loc):
                if part and 'file' in part:
                    current[0] = part['file']

        def walk(n):
            """Everything in the order in which it was written, for the name of the file."""
            if isinstance(n, dict):
                if 'file' in n:
                    current[0] = n['file']
                for k, v in n.items():
                    if k != 'includedFrom':
                        walk(v)
            elif isinstance(n, list):
                for v in n:
                    walk(v)

        for n in self.tree['inner']:
            note(n.get('loc', {}))
            file = current[0]
            walk(n)
            if file == self.path and n['kind'] == 'EnumDecl':
                self.skipped('enumerations')
            if file == self.path and n['kind'] == 'VarDecl' and 'init' in n:
                self.skipped('static initialisers')
            if n['kind'] == 'FunctionDecl' and file == self.path and \
                    any(c['kind'] == 'CompoundStmt' for c in n.get('inner', [])):
                yield n

    def rewritten(self):
        """The whole file, with every mutant in it."""
        import hashlib
        out, at = [], 0
        for f in self.functions():
            body = next(c for c in f['inner'] if c['kind'] == 'CompoundStmt')
            b, e, _ = self.span(body)
            if b < at:
                continue
            self.function = f['name']
            self.returns = f['type']['qualType'].split('(')[0].strip()
            self.version = hashlib.sha256(self.text[b:e].encode()).hexdigest()[:12]
            out += [self.text[at:b], self.write(body)]
            at = e
        return ''.join(out) + self.text[at:]
