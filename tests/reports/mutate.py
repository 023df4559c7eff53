#!/usr/bin/env python3
"""Mutation testing: would the tests notice a small mistake in the code?

Copies the sources, writes every mutant of mutants.py into the copy at once, builds it, runs each test
once to see which mutants it reaches, and then each mutant with the tests that reach it, the quickest
first, until one fails. A test that takes more than ten times as long as without a mutant, and two
seconds, has noticed it too. What survives is listed; survivors whose reason stands in
mutation-survivors.txt are known. Results are kept in WORK/results.tsv and used again for every
function that has not changed since (a killed mutant stays killed; survivors: see --again).

    mutate.py [--work DIR] [--files REGEX] [--tests REGEX] [--sample K N] [--limit SECONDS] [--near] [--again] [--jobs N]
              [--until HH:MM] [--only-list]
"""
import argparse
import collections
import csv
import ctypes
import hashlib
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zlib
from datetime import datetime

import mutants
import reasons

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
LABELS = '^(base|crypto|backend|migration|src|crash|fuzz)$'
RUNTIME = 'src/base/mutant.c'
MUTANTS_MAX = 1 << 16  # as in mutant.c
UNSTEADY = 'src/'  # with daemons, which can be late on a busy machine: they have to fail twice
ORDER = ('crypto/', 'backend/store', 'backend/qcow', 'migration/', 'backend/blk', '')
FIELDS = ('file', 'function', 'text', 'change', 'nth', 'version', 'status', 'by', 'limit')


def say(text):
    print(text, flush=True)


# ---- the copy ----

def sources_of(root):
    found = []
    for layer in ('crypto', 'backend', 'migration'):
        found += [f'{layer}/{n}' for n in sorted(os.listdir(f'{root}/{layer}')) if n.endswith('.c')]
    return found


def put(path, content):
    """Writes a file where it is another one, so that ninja builds only what changed."""
    try:
        with open(path, 'rb') as f:
            if f.read() == content:
                return
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, 'wb') as f:
        f.write(content)


def files_of(root):
    for folder, below, names in os.walk(root):
        below[:] = [d for d in below if d not in ('.git', '__pycache__') and
                    not (folder == root and d.startswith('build'))]
        for name in names:
            yield os.path.relpath(f'{folder}/{name}', root)


def copy_tree(source, tree, but=()):
    there = set(files_of(source))
    for name in there - set(but):
        with open(f'{source}/{name}', 'rb') as f:
            put(f'{tree}/{name}', f.read())
        shutil.copymode(f'{source}/{name}', f'{tree}/{name}')
    for name in set(files_of(tree)) - there - {RUNTIME}:
        os.unlink(f'{tree}/{name}')


def rewrite(source, tree, files):
    """Puts the mutants into the tree. Returns them, and what is not done."""
    flags = ['-std=gnu11', '-D_GNU_SOURCE', '-DNVKEEP_VERSION="0"', f'-I{source}']
    made, not_done = [], collections.Counter()
    for name in files:
        s = mutants.Source(f'{source}/{name}', name, flags, len(made) + 1)
        text = s.rewritten()
        made += s.mutants
        not_done.update(s.not_done)
        put(f'{tree}/{name}', text.encode())
    if len(made) >= MUTANTS_MAX:
        raise SystemExit(f'{len(made)} mutants are too many for mutant.c')
    return made, not_done


def build(tree, folder, flags, log):
    """Everything that runs as a test, out of the rewritten tree."""
    with open(f'{HERE}/mutant.c', 'rb') as f:
        put(f'{tree}/{RUNTIME}', f.read())
    with open(log, 'w', encoding='utf-8') as out:
        for command in (['cmake', '-S', tree, '-B', folder, '-G', 'Ninja', *flags],
                        ['ninja', '-C', folder]):
            if subprocess.run(command, stdout=out, stderr=out, check=False).returncode:
                raise SystemExit(f'the build with mutants failed: {log}')


# ---- tests ----

def tests_of(folder):
    """name -> (command, environment): programs only, scripts take long and show little."""
    listed = json.loads(subprocess.run(['ctest', '--test-dir', folder, '-L', LABELS, '--show-only=json-v1'],
                                       check=True, capture_output=True).stdout)
    found = {}
    for t in listed['tests']:
        if os.path.basename(t['command'][0]) in ('bash', 'sh', 'python3'):
            continue
        properties = {p['name']: p['value'] for p in t.get('properties', [])}
        environment = dict(v.split('=', 1) for v in properties.get('ENVIRONMENT', []))
        found[t['name']] = (t['command'], environment)
    return found


def become_reaper():
    """Whatever a test leaves behind becomes a child of ours, and can be ended by its number."""
    PR_SET_CHILD_SUBREAPER = 36
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def end_children():
    while True:
        with open(f'/proc/self/task/{os.getpid()}/children', encoding='ascii') as f:
            children = [int(c) for c in f.read().split()]
        if not children:
            return
        for pid in children:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        for pid in children:
            try:
                os.waitpid(pid, 0)
            except ChildProcessError:
                pass


def run_test(test, folder, tmp, limit, extra):
    """(exit status or None for one that was ended, seconds)"""
    command, environment = test
    began = time.monotonic()
    p = subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                         stderr=subprocess.DEVNULL, start_new_session=True,
                         env={**os.environ, **environment, **extra, 'TMPDIR': tmp})
    try:
        status = p.wait(limit)
    except subprocess.TimeoutExpired:
        status = None
    taken = time.monotonic() - began
    if status is None:
        os.killpg(p.pid, signal.SIGKILL)
        p.wait()
    end_children()
    for entry in os.scandir(tmp):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path, ignore_errors=True)
        else:
            os.unlink(entry.path)
    return status, taken


def look_one(job):
    name, test, folder = job
    with tempfile.TemporaryDirectory(prefix='nvm', ignore_cleanup_errors=True) as tmp, \
            tempfile.NamedTemporaryFile(prefix='nvseen') as seen:
        os.truncate(seen.name, MUTANTS_MAX)
        status, taken = run_test(test, folder, tmp, 1800, {'NVKEEP_MUTANTS_SEEN': seen.name})
        reached = [n for n, b in enumerate(seen.read()) if b and n]
    return name, status, taken, reached


def look_once(tests, folder, work, jobs):
    """look(), or what it said about the same programs before."""
    path, kept = f'{work}/look.json', {}
    if os.path.exists(path):
        with open(path, encoding='utf-8') as f:
            kept = json.load(f)
    digests = {}
    for name, (command, _) in tests.items():
        with open(command[0], 'rb') as f:
            digests[name] = hashlib.sha256(f.read()).hexdigest()
    others = {n: k for n, k in kept.items() if n not in tests}
    kept = {n: k for n, k in kept.items() if digests.get(n) == k['digest']}
    new = {n: t for n, t in tests.items() if n not in kept}
    reach, seconds = look(new, folder, jobs)
    for name in new:  # also those that are skipped or fail: they reach nothing
        kept[name] = {'digest': digests[name], 'reach': reach.get(name, []),
                      'seconds': seconds.get(name, 0)}
    with open(path, 'w', encoding='utf-8') as f:
        json.dump({**others, **kept}, f)
    return {n: k['reach'] for n, k in kept.items()}, {n: k['seconds'] for n, k in kept.items()}


def look(tests, folder, jobs):
    """Which mutants does each test reach, and how long does it take?"""
    reach, seconds = {}, {}
    with multiprocessing.Pool(jobs, initializer=become_reaper, maxtasksperchild=1) as pool:
        work = [(n, t, folder) for n, t in tests.items()]
        for name, status, taken, reached in pool.imap_unordered(look_one, work):
            if status == 77:
                continue
            if status != 0:
                say(f'    not used, fails without a mutant: {name} ({status})')
                continue
            reach[name] = reached
            seconds[name] = round(taken, 3)
    return reach, seconds


# ---- results ----

class Results:
    """results.tsv: the last line about a mutant counts."""

    def __init__(self, path):
        self.path = path
        self.known = {}
        if os.path.exists(path):
            with open(path, encoding='utf-8', newline='') as f:
                for row in csv.reader(f, delimiter='\t', quoting=csv.QUOTE_NONE, quotechar=None):
                    if len(row) == len(FIELDS):
                        r = dict(zip(FIELDS, row))
                        self.known[tuple(row[:6])] = r

    def of(self, m):
        return self.known.get((*m.key(), m.version))

    def add(self, m, status, by, limit):
        row = (*m.key(), m.version, status, by, str(limit))
        self.known[row[:6]] = dict(zip(FIELDS, row))
        with open(self.path, 'a', encoding='utf-8') as f:
            f.write('\t'.join(row) + '\n')


# ---- the campaign ----

def try_mutant(job):
    number, names = job
    with tempfile.TemporaryDirectory(prefix='nvm', ignore_cleanup_errors=True) as tmp:
        for name in names:
            status, _ = run_test(SHARED['tests'][name], SHARED['folder'], tmp,
                                 10 * SHARED['seconds'][name] + 2, {'NVKEEP_MUTANT': str(number)})
            if status is not None and status != 0 and name.startswith(UNSTEADY):
                status, _ = run_test(SHARED['tests'][name], SHARED['folder'], tmp,
                                     10 * SHARED['seconds'][name] + 2, {'NVKEEP_MUTANT': str(number)})
            if status is None:
                return number, 'timed out', name
            if status != 0:
                return number, 'killed', name
    return number, 'survived', ''


SHARED = {}


def begin_worker(shared):
    SHARED.update(shared)
    become_reaper()


def work_of(made, results, reached_by, seconds, args):
    """(mutant, tests to run) for what is not known yet."""
    for m in made:
        if not re.search(args.files, m.file):
            continue
        if args.sample and zlib.crc32('\t'.join(m.key()).encode()) % args.sample[1] != args.sample[0]:
            continue
        known = results.of(m)
        layer = m.file.split('/')[0] + '/'
        names = sorted((n for n in reached_by.get(m.number, ()) if seconds[n] <= args.limit and
                        (n.startswith(layer) or not args.near)),
                       key=lambda n: (not n.startswith(layer) and seconds[n] > 0.1, seconds[n]))
        if known and known['status'] in ('killed', 'timed out'):
            continue
        if known and known['status'] == 'survived' and args.near:
            continue
        if known and known['status'] == 'survived' and not args.again:
            names = [n for n in names if seconds[n] > float(known['limit'])]
            if not names:
                continue
        if known and known['status'] == 'not reached' and not names:
            continue
        yield m, names


def campaign(made, results, reach, seconds, tests, folder, args):
    reached_by = collections.defaultdict(list)
    for name, numbers in reach.items():
        for n in numbers:
            reached_by[n].append(name)
    by_number = {m.number: m for m in made}
    work = sorted(work_of(made, results, reached_by, seconds, args),
                  key=lambda w: next(i for i, p in enumerate(ORDER) if w[0].file.startswith(p)))
    jobs = []
    for m, names in work:
        if reached_by.get(m.number):
            jobs.append((m.number, names))
        else:
            results.add(m, 'not reached', '', args.limit)
    say(f'{len(made)} mutants, {len(jobs)} to run')
    began = told = time.monotonic()
    counts = collections.Counter()
    shared = {'tests': tests, 'folder': folder, 'seconds': seconds}
    with multiprocessing.Pool(args.jobs, initializer=begin_worker, initargs=(shared,)) as pool:
        for n, status, by in pool.imap_unordered(try_mutant, jobs):
            results.add(by_number[n], status, by, 0 if args.near or args.tests else args.limit)
            counts[status] += 1
            now = time.monotonic()
            if now - told > 60:
                told = now
                say(f'    {sum(counts.values())} of {len(jobs)} after {int(now - began)} s, at '
                    f'{by_number[n].file}: ' + ', '.join(f'{v} {k}' for k, v in counts.items()))
            if args.until and datetime.now().strftime('%H:%M') >= args.until:
                say('stopped, time is up; the same command goes on from here')
                pool.terminate()
                break


# ---- the report ----

def report(made, results, not_done, args):
    """Prints all figures and every survivor without a reason. Returns how many those are."""
    states = ('killed', 'timed out', 'survived', 'not reached', 'not tried')
    table = collections.defaultdict(collections.Counter)
    left = []
    for m in made:
        known = results.of(m)
        status = known['status'] if known else 'not tried'
        if re.search(args.files, m.file):
            table[m.file][status] += 1
        if status in ('survived', 'not reached'):
            left.append((m, status))
    known_reasons = reasons.Reasons(f'{HERE}/mutation-survivors.txt')
    open_ones = [(m, s) for m, s in left if re.search(args.files, m.file)
                 and not known_reasons.find(m.file, m.function, m.text, m.change)]
    for m, _ in left:  # so that all reasons count as used, whatever --files says
        known_reasons.find(m.file, m.function, m.text, m.change)
    say(f'\n{"":28}{"mutants":>9}' + ''.join(f'{s:>13}' for s in states))
    layers = collections.defaultdict(collections.Counter)
    for file in sorted(table):
        layers[file.split('/')[0]].update(table[file])
        layers['all'].update(table[file])
        say(f'{file:28}{sum(table[file].values()):9}' + ''.join(f'{table[file][s]:13}' for s in states))
    for name in ('crypto', 'backend', 'migration', 'all'):
        say(f'{name:28}{sum(layers[name].values()):9}' + ''.join(f'{layers[name][s]:13}' for s in states))
    say('\nNot done: ' + ', '.join(f'{n} {k}' for k, n in sorted(not_done.items())))
    for m, status in open_ones:
        say(f'{status}: {m.file}: {m.function}: {m.text} [{m.change}]' + (f' #{m.nth}' if m.nth > 1 else ''))
    tried = {m.file for m in made if results.of(m)}
    stale = known_reasons.unused() if len(tried) == len({m.file for m in made}) and \
        not layers['all']['not tried'] else []
    for text in stale:
        say(f'a reason for nothing: {text}')
    total = layers['all']
    say(f'\n{sum(total.values())} mutants: {total["killed"]} killed, {total["timed out"]} timed out, '
        f'{total["survived"]} survived, {total["not reached"]} not reached, {total["not tried"]} not '
        f'tried; {len(open_ones)} without a reason, {len(stale)} reasons for nothing')
    return len(open_ones) + len(stale)


def main():
    p = argparse.ArgumentParser(description='Mutation testing of crypto, backend and migration.')
    p.add_argument('--work', default=f'{ROOT}/build/mutation', help='where the copy and the results are')
    p.add_argument('--source', default=ROOT, help='the tree to try')
    p.add_argument('--files', default='', metavar='REGEX', help='only these files')
    p.add_argument('--tests', default='', metavar='REGEX', help='only these tests')
    p.add_argument('--sample', nargs=2, type=int, metavar=('K', 'N'), help='the Kth (from 0) of N shares')
    p.add_argument('--limit', type=float, default=1e9, help='only tests that take this many seconds at most')
    p.add_argument('--near', action='store_true',
                   help="only tests of the mutant's own layer: quick, and what survives is tried further later")
    p.add_argument('--again', action='store_true', help='try survivors again, with all tests')
    p.add_argument('--jobs', type=int, default=2)
    p.add_argument('--until', metavar='HH:MM', help='stop at this time')
    p.add_argument('--only-list', action='store_true', help='run nothing, print what is known')
    p.add_argument('--sanitize', default='', help='build with these sanitizers')
    args = p.parse_args()
    os.nice(19)
    os.makedirs(args.work, exist_ok=True)
    work = os.path.abspath(args.work)
    tree, folder = f'{work}/tree', f'{work}/build'
    # What is rewritten comes out of a copy of its own, so that nobody changes it meanwhile.
    copy_tree(args.source, f'{work}/source')
    files = sources_of(f'{work}/source')
    copy_tree(f'{work}/source', tree, but=files)
    made, not_done = rewrite(f'{work}/source', tree, files)
    results = Results(f'{work}/results.tsv')
    if not args.only_list:
        began = time.monotonic()
        build(tree, folder, ['-DCMAKE_BUILD_TYPE=Debug', '-DCMAKE_C_COMPILER=clang',
                             f'-DCMAKE_C_FLAGS=-O1 -w -include {tree}/tests/reports/mutant.h',
                             f'-DNVKEEP_SANITIZE={args.sanitize}'], f'{work}/build.log')
        say(f'built in {int(time.monotonic() - began)} s; what reaches what?')
        began = time.monotonic()
        tests = {n: t for n, t in tests_of(folder).items() if re.search(args.tests, n)}
        reach, seconds = look_once(tests, folder, work, args.jobs)
        say(f'{len(reach)} tests in {int(time.monotonic() - began)} s, the slowest: ' +
            ', '.join(f'{n} {seconds[n]:.0f} s' for n in sorted(seconds, key=seconds.get)[:-6:-1]))
        campaign(made, results, reach, seconds, tests, folder, args)
    sys.exit(1 if report(made, results, not_done, args) else 0)


if __name__ == '__main__':
    main()
