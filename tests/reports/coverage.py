#!/usr/bin/env python3
"""Line and branch coverage of crypto, backend and migration, out of what the instrumented tests left
in BUILD/profile. A branch is a condition of the source (also a single one between && and ||, a case of
a switch) and one of its outcomes. By rule left out is what is none: conditions that are constant, and
what macros expand to (assert, so that no failing assertion is missed here). Every other outcome that
never came needs a reason in coverage-unreached.txt; a reason for one that did come is as wrong. A
line that was not run lies behind such a branch, or needs a reason for its function.

    coverage.py BUILD SOURCE
"""
import collections
import glob
import json
import os
import re
import subprocess
import sys

import reasons

HERE = os.path.dirname(os.path.abspath(__file__))
LAYERS = ('crypto', 'backend', 'migration')
CONSTANT = re.compile(r'[01]|true|false')


def programs(build):
    found = [p for p in sorted(glob.glob(f'{build}/bin/*')) if os.access(p, os.X_OK) and
             not re.match('tool_|guest', os.path.basename(p))]
    return found + glob.glob(f'{build}/lib/libnvkeep.so')


def exported(build, source):
    """What llvm-cov says, as JSON and as lines."""
    profiles = glob.glob(f'{build}/profile/*.profraw')
    if not profiles:
        raise SystemExit('coverage.py: no test left a profile')
    merged = f'{build}/profile/all.profdata'
    subprocess.run(['llvm-profdata', 'merge', '-sparse', '-o', merged, *profiles], check=True)
    first, *others = programs(build)
    command = ['llvm-cov', 'export', '-instr-profile', merged, first,
               *(a for p in others for a in ('-object', p)), *(f'{source}/{l}' for l in LAYERS)]
    whole = subprocess.run(command, check=True, capture_output=True).stdout
    lines = subprocess.run([*command, '-format=lcov'], check=True, capture_output=True, text=True).stdout
    return json.loads(whole)['data'][0], lines


def line_counts(lcov):
    """file -> {line: count}"""
    counts, now = {}, None
    for row in lcov.splitlines():
        if row.startswith('SF:'):
            now = counts.setdefault(row[3:], {})
        elif row.startswith('DA:'):
            line, count = row[3:].split(',')[:2]
            now[int(line)] = int(count)
    return counts


def function_at(functions, line):
    for first, last, name in functions:
        if first <= line <= last:
            return name
    return '?'


def functions_of(data):
    """file -> [(first line, last line, name)] and file -> {function: count}"""
    places, counts = collections.defaultdict(set), collections.defaultdict(collections.Counter)
    for f in data['functions']:
        name, file, region = f['name'].split(':')[-1], f['filenames'][0], f['regions'][0]
        places[file].add((region[0], region[2], name))
        counts[file][name] += f['count']
    return places, counts


def text_between(lines, l1, c1, l2, c2):
    part = lines[l1 - 1:l2]
    part[-1] = part[-1][:c2 - 1]
    part[0] = part[0][c1 - 1:]
    return re.sub(r'\s+', ' ', ' '.join(part)).strip()


def branches_of(entry, lines):
    """(line, text, count when true, count when false), those of one place together."""
    found = collections.OrderedDict()
    for l1, c1, l2, c2, true, false, *_ in entry['branches']:
        place = (l1, c1, l2, c2)
        t, f = found.get(place, (0, 0))
        found[place] = (t + true, f + false)
    for place, (t, f) in found.items():
        text = text_between(lines, *place)
        if not CONSTANT.fullmatch(text):
            yield place[0], text, t, f


def report_file(entry, source, counts, places, ran, known):
    """Returns (lines, lines run, outcomes, outcomes that came, what has no reason)."""
    name = os.path.relpath(entry['filename'], source)
    with open(entry['filename'], encoding='utf-8') as f:
        lines = f.read().split('\n')
    missed, n, n_came, explained = [], 0, 0, set()
    for line, text, t, f in branches_of(entry, lines):
        function = function_at(places, line)
        outcomes = [('never true', t), ('never false', f)]
        if text.startswith(('case ', 'default')):
            outcomes = [('never taken', t)]
        n += len(outcomes)
        n_came += sum(1 for _, c in outcomes if c)
        never = [what for what, c in outcomes if not c]
        if len(never) == 2:
            never = ['never reached']
        if never:
            explained.add(function)
        for what in never:
            if not known.find(name, function, text, what):
                missed.append(f'{name}:{line}: {function}: {text} | {what}')
    silent = {}
    for line, count in counts.items():
        function = function_at(places, line)
        if not count and function not in explained:
            silent.setdefault(function, line)
    for function, line in silent.items():
        what = 'never run' if ran[function] else 'never called'
        if not known.find(name, function, '-', what):
            missed.append(f'{name}:{line}: {function}: - | {what}')
    return name, len(counts), sum(1 for c in counts.values() if c), n, n_came, missed


def percent(part, whole):
    return f'{100 * part / whole:6.1f} %' if whole else '     - %'


def main():
    build, source = os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2])
    data, lcov = exported(build, source)
    counts, (places, ran) = line_counts(lcov), functions_of(data)
    known = reasons.Reasons(f'{HERE}/coverage-unreached.txt')
    totals, missed = collections.defaultdict(lambda: [0, 0, 0, 0]), []
    print(f'{"":28}{"lines":>8}{"run":>8}{"":>9}{"branches":>10}{"came":>8}')

    def row(title, l, lr, b, bc):
        print(f'{title:28}{l:8}{lr:8}{percent(lr, l):>9}{b:10}{bc:8}{percent(bc, b):>9}')

    for entry in sorted(data['files'], key=lambda f: f['filename']):
        if not entry['filename'].endswith('.c'):
            continue
        file = entry['filename']
        name, *figures, without = report_file(entry, source, counts[file], places[file], ran[file], known)
        row(name, *figures)
        missed += without
        for total in (name.split('/')[0], 'all'):
            totals[total] = [a + b for a, b in zip(totals[total], figures)]
    for total in (*LAYERS, 'all'):
        row(total, *totals[total])
    print()
    for text in missed:
        print(f'no reason: {text}')
    unused = known.unused()
    for text in unused:
        print(f'a reason for what is not there: {text}')
    l, lr, b, bc = totals['all']
    print(f'{lr} of {l} lines, {bc} of {b} branches; {b - bc} branches not taken, {len(missed)} of them '
          f'without a reason; {len(unused)} reasons for nothing')
    return 1 if missed or unused else 0


if __name__ == '__main__':
    sys.exit(main())
