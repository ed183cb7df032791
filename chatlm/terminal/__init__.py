"""The chat as a user sees it: at a keyboard, through a pipe, or for one question.

In: a session and the process's streams. Out: answers on stdout, exit codes. All text of others
passes `chatlm.sanitize`, or is JSON without one unprintable character.

    talk.py      which way fits the streams; from opening the model to the exit code
    dialogue.py  at a keyboard          keyboard.py, history.py  editing, completion, old lines
    batch.py     pipe and one question  screen.py                what is written where
    opening.py   a model that is opened while its user types     tty.py   keys, signals, streams
"""
