#!/usr/bin/env python3
"""The tool of the mutation report on a small program of which every mutant is known: those that its
own test notices, the one that never ends, and those that it cannot notice."""
import os
import subprocess
import sys
import tempfile

import mutants
import mutate
import reasons

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))

SUBJECT = r'''
#define TWICE(x) ((x) * 2)
static const int limit = 3 + 4;
static int n_calls;
static int within(unsigned at, unsigned n)
{
    n_calls++;
    if (at > 8 || n > 8 - at)
        return -1;
    return 0;
}
static int sum_to(int n)
{
    int sum = 0;
    for (int i = 1; i <= n; i++)
        sum += i;
    return sum;
}
static void spin(int n)
{
    while (n > 0)
        n--;
}
static int unreached(int n)
{
    return n + TWICE(n);
}
int main(int argc, char **argv)
{
    (void)argv;
    if (argc > 9)
        return unreached(limit);
    spin(3);
    if (within(0, 8) != 0 || within(4, 4) != 0 || within(8, 1) == 0)
        return 1;
    return sum_to(3) == 6 ? 0 : 1;
}
'''

# What the subject's main() cannot notice in within() and sum_to(); all else there it must.
SURVIVE = {
    ('within', 'n_calls++', 'deleted', 1),  # nobody looks at it
    ('within', 'at > 8 in at > 8 || n > 8 - at', 'never', 1),  # 8 - at wraps and is too much anyway
    ('within', 'at > 8 in at > 8 || n > 8 - at', '> to >=', 1),  # no range begins at 8 and is empty
    ('within', '8 in at > 8', 'to 9', 1),
    ('sum_to', '1 in int i = 1', 'to 0', 1),  # adds 0
}
NEVER_ENDS = ('spin', 'n-- in while (n > 0) n--', 'deleted', 1)


def fail(text):
    print(f'FAILED: {text}')
    sys.exit(1)


def main():
    with tempfile.TemporaryDirectory() as work:
        source = f'{work}/subject.c'
        with open(source, 'w', encoding='ascii') as f:
            f.write(SUBJECT)
        subject = mutants.Source(source, 'subject.c', ['-std=gnu11'], 1)
        with open(f'{work}/rewritten.c', 'w', encoding='ascii') as f:
            f.write(subject.rewritten())
        program = f'{work}/subject'
        subprocess.run(['clang', '-w', '-include', f'{HERE}/mutant.h', f'-I{ROOT}', f'{HERE}/mutant.c',
                        f'{work}/rewritten.c', '-o', program], check=True)
        mutate.become_reaper()
        os.mkdir(f'{work}/tmp')
        seen = f'{work}/seen'
        with open(seen, 'wb') as f:
            f.truncate(mutate.MUTANTS_MAX)
        status, _ = mutate.run_test(([program], {}), work, f'{work}/tmp', 10, {'NVKEEP_MUTANTS_SEEN': seen})
        if status != 0:
            fail(f'without a mutant the subject ends with {status}')
        with open(seen, 'rb') as f:
            reached = f.read()
        results = {}
        for m in subject.mutants:
            status = 'not reached'
            if reached[m.number]:
                status, _ = mutate.run_test(([program], {}), work, f'{work}/tmp', 1,
                                            {'NVKEEP_MUTANT': str(m.number)})
                status = {None: 'timed out', 0: 'survived'}.get(status, 'killed')
            results[(m.function, m.text, m.change, m.nth)] = status
        compare(results)
        with open(f'{work}/reasons', 'w', encoding='ascii') as f:
            f.write('# a remark\nsubject.c  within\n    at > 8\n    never\n    : looked at\n\n'
                    'subject.c  *\n    gone * away\n    deleted\n    : was there once\n')
        known = reasons.Reasons(f'{work}/reasons')
        if not known.find('subject.c', 'within', 'at > 8', 'never') or \
                known.find('subject.c', 'within', 'at > 8', 'always') or len(known.unused()) != 1:
            fail('reasons do not fit what they are for')
        print(f'{len(results)} mutants of the subject, each as expected')


def compare(results):
    for key in (*SURVIVE, NEVER_ENDS):
        if key not in results:
            fail(f'{key} was not made')
    for key, status in results.items():
        wanted = status
        if key[0] in ('within', 'sum_to'):
            wanted = 'survived' if key in SURVIVE else 'killed'
        if key[0] == 'unreached':
            wanted = 'not reached'
        if key == NEVER_ENDS:
            wanted = 'timed out'
        if status != wanted:
            fail(f'{key}: {status}, not {wanted}')


if __name__ == '__main__':
    main()
