"""A desktop application with a window: type, and the notes that match appear, with what matched in them marked.

    python examples/desktop/app.py                    the handbook
    python examples/desktop/app.py ~/notes --db notes.db

Keyboard: type to search; Down and Up go through the hits; Return opens the note; Escape goes back, then clears, then
quits. Only Python's own tkinter is needed (Debian and Ubuntu: apt install python3-tk). The search is in live_search.py;
this file is the window.
"""

from __future__ import annotations

import argparse
import queue
import sys
import tkinter as tk
from pathlib import Path
from tkinter import font, ttk

from live_search import Answer, LiveSearch

HANDBOOK = Path(__file__).resolve().parent.parent / "handbook"
# How often the window looks for answers. Tk is not to be called from another thread.
LOOK_MS = 15


class Window:
    """The window: a line to type in, the hits, and the note that was opened.

    Args:
        root: Tk's root.
        folder: The notes.
        database: Where the index is kept.
    """

    def __init__(self, root: tk.Tk, folder: Path, database: str | Path) -> None:
        self.root = root
        self.answer = Answer("")
        self.selected = 0
        self.opened = False
        self._answers: queue.Queue[Answer] = queue.Queue()
        self.search = LiveSearch(folder, database, self._answers.put)
        self._build(folder)
        root.protocol("WM_DELETE_WINDOW", self.quit)
        self.search.start()
        self._look()

    def _build(self, folder: Path) -> None:
        root = self.root
        root.title(f"Notes in {folder.name}")
        root.geometry("760x560")
        root.rowconfigure(1, weight=1)
        root.columnconfigure(0, weight=1)
        plain = font.nametofont("TkDefaultFont")
        self._fonts = {"name": plain.copy(), "match": plain.copy()}
        for kind in self._fonts.values():
            kind.configure(weight="bold")

        self.question = tk.StringVar(root)
        self.question.trace_add("write", lambda *_: self.search.ask(self.question.get()))
        self.entry = ttk.Entry(root, textvariable=self.question, font=plain)
        self.entry.grid(row=0, column=0, sticky="ew", padx=10, pady=10)

        self.page = tk.Text(root, wrap="word", font=plain, relief="flat", padx=12, pady=8, spacing3=3, cursor="arrow")
        self.page.grid(row=1, column=0, sticky="nsew")
        bar = ttk.Scrollbar(root, command=self.page.yview)
        bar.grid(row=1, column=1, sticky="ns")
        # Two marks, bold and yellow, so that neither eyes nor screens that see no colour miss it.
        self.page.tag_configure("match", font=self._fonts["match"], background="#fff2a8", foreground="black")
        self.page.tag_configure("name", font=self._fonts["name"])
        self.page.tag_configure("selected", background="#dde8f7", foreground="black")
        self.page.tag_raise("match")
        self.page.configure(yscrollcommand=bar.set, state="disabled", takefocus=False)

        self.status = tk.StringVar(root, "reading notes")
        ttk.Label(root, textvariable=self.status).grid(row=2, column=0, sticky="ew", padx=10, pady=4)

        root.bind("<Down>", lambda _: self.move(1))
        root.bind("<Up>", lambda _: self.move(-1))
        root.bind("<Return>", lambda _: self.open())
        root.bind("<Escape>", lambda _: self.back())
        self.entry.focus_set()

    def _look(self) -> None:
        """Take what the worker has answered; only the last answer is worth drawing."""
        newest = None
        while not self._answers.empty():
            found = self._answers.get()
            self.status.set(found.message)
            # Answers to what was typed before are late, and would flicker.
            newest = found if found.question == self.question.get() else newest
        if newest is not None:
            self.answer, self.selected = newest, 0
            self.draw()
        self._timer = self.root.after(LOOK_MS, self._look)

    def draw(self) -> None:
        """Show the hits."""
        self.opened = False
        self._write([])
        for rank, (hit, pieces) in enumerate(zip(self.answer.hits, self.answer.shown, strict=True)):
            line = f"hit{rank}"
            self._write([(f"{hit.id}\n", ("name", line))], more=True)
            self._write([(text, ("match", line) if marked else (line,)) for text, marked in pieces], more=True)
            self._write([("\n\n", (line,))], more=True)
            self.page.tag_bind(line, "<Button-1>", lambda _, rank=rank: self.open(rank))
        self._select()

    def _write(self, pieces: list[tuple[str, tuple[str, ...]]], *, more: bool = False) -> None:
        self.page.configure(state="normal")
        if not more:
            self.page.delete("1.0", "end")
        for text, tags in pieces:
            self.page.insert("end", text, tags)
        self.page.configure(state="disabled")

    def _select(self) -> None:
        self.page.tag_remove("selected", "1.0", "end")
        places = self.page.tag_ranges(f"hit{self.selected}") if self.answer.hits else ()
        if places:
            self.page.tag_add("selected", places[0], places[-1])
            self.page.see(places[-1])
            self.page.see(places[0])

    def move(self, by: int) -> None:
        """Select the next or the previous hit; in a note, scroll."""
        if self.opened:
            self.page.yview_scroll(by, "units")
        else:
            self.selected = max(0, min(self.selected + by, len(self.answer.hits) - 1))
            self._select()

    def open(self, rank: int | None = None) -> None:
        """Show the whole note of a hit, with what matched in it."""
        self.selected = self.selected if rank is None else rank
        if self.opened or self.selected >= len(self.answer.hits):
            return
        hit = self.answer.hits[self.selected]
        self.opened = True
        # The index takes calls of several threads; this one reads one note and takes milliseconds.
        self._write([(hit.text, ())])
        for word in hit.snippet(len(hit.text)).highlights:
            self.page.tag_add("match", f"1.0+{word.start}c", f"1.0+{word.end}c")
        self.status.set(f"{hit.id}  (Escape goes back)")

    def back(self) -> None:
        """One step back: from the note to the hits, from the hits to nothing, from nothing out."""
        if self.opened:
            self.draw()
            self.status.set(self.answer.message)
        elif self.question.get():
            self.question.set("")
        else:
            self.quit()

    def quit(self) -> None:
        """Close the window, once the worker has put its index away."""
        self.root.after_cancel(self._timer)
        self.search.close()
        self.root.destroy()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Search notes in a window.")
    parser.add_argument("folder", nargs="?", type=Path, default=HANDBOOK)
    parser.add_argument("--db", default=":memory:", help="keep the index in this file")
    options = parser.parse_args(arguments)
    if not options.folder.is_dir():
        parser.error(f"{options.folder} is no folder")
    try:
        root = tk.Tk()
    except tk.TclError as error:
        print(f"No window can be opened here: {error}", file=sys.stderr)
        return 1
    Window(root, options.folder, options.db)
    root.mainloop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
