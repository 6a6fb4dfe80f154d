"""The rows of all families as a table, and how many of them are right."""
from typing import Dict, List, Mapping, Optional

from .row import Row

#: By column the step that it shows.
COLUMNS = dict(
    built='built', trained='trained', equal='equal', decided='decided',
    moeify='moeified')
#: Steps that the detector makes without experts.
DENSE = 'loads', 'dense', 'dense_predicts', 'dense_trains'
YES, NO, CANNOT = 'yes', '**no**', '–'


def cells(row: Row) -> Dict[str, str]:
    """Of each column whether a family is right there.

    It is ``–`` where the detector without experts cannot do it either, or
    where there is nothing to compare.
    """
    result = {}
    for column, step in COLUMNS.items():
        right = row.get(step, (None, ''))[0]
        result[column] = {True: YES, False: NO}.get(right, CANNOT)
    if result['decided'] == YES:
        result['decided'] = row['weights'][1]
    return result


def mistakes(row: Row) -> List[str]:
    """What is wrong with the experts: steps that fail with them, and do not
    fail without."""
    return [
        f'{step}: {why}' for step, (right, why) in row.items()
        if right is False and step not in DENSE
    ]


def excuse(row: Row) -> Optional[str]:
    """Why a family has no experts, or cannot be compared or trained."""
    return '; '.join(
        why for step in DENSE
        for right, why in [row.get(step, (True, ''))] if right is not True
    ) or None


def counts(rows: Mapping[str, Row]) -> Dict[str, int]:
    """Families that are right, by column; ``comparable`` are those whose
    detections can be compared."""
    result = {
        column: sum(row.get(step, (None, ''))[0] is True
                    for row in rows.values())
        for column, step in COLUMNS.items()
    }
    result['comparable'] = sum(
        row.get('equal', (None, ''))[0] is not None for row in rows.values())
    return result


def markdown(rows: Mapping[str, Row]) -> str:
    """The table, one line for each folder, and the counts."""
    lines = [
        '| config | experts at | ' + ' | '.join(COLUMNS) + ' | why not |',
        '|---' * (len(COLUMNS) + 3) + '|'
    ]
    for _, row in sorted(rows.items()):
        name = row['config'][1].rpartition('::')[2]
        why = [mistake for mistake in mistakes(row)]
        if excuse(row):
            why.append(excuse(row))
        if 'reason' in row:
            why.append(row['reason'][1])
        at = f'`{row["at"][1]}`' if 'at' in row else ''
        lines.append(' | '.join([
            f'| `{name}`', at, *cells(row).values(),
            '; '.join(why).replace('|', '\\|') + ' |'
        ]))
    number = counts(rows)
    lines.append(
        f'\n{len(rows)} folders: '
        f'{number["built"]} built, {number["trained"]} trained, '
        f'{number["equal"]} of {number["comparable"]} that can be compared '
        f'equal, {number["decided"]} decided, {number["moeify"]} moeify.')
    return '\n'.join(lines)
