// A table as the database has it: a snapshot, and the changes that are newer.
//
// What it goes by:
// - A change is published after its transaction has become visible. So a snapshot that is asked for once the changes arrive
//   has whatever was published before, and what it does not have is still to come.
// - A snapshot says which transactions it sees (pg_current_snapshot()), and a change says whose it is.
// - Changes of one row, by several sessions, may arrive in another order than they were made in, and twice. Its version,
//   which a sequence gives it whenever it is written, says which is the last.
//
// Nothing here knows of the page or of STOMP.

/** So many deleted rows are remembered; then a new snapshot makes it needless. */
const MOST_DELETED = 10_000;

/** Which transactions a snapshot sees: the text of a pg_snapshot, "xmin:xmax:xip,xip,...". */
export class Snapshot {
  #end;
  #running;

  constructor(text) {
    const [, end, running] = text.split(":");
    this.#end = Number(end);
    this.#running = new Set(running.split(",").filter(Boolean).map(Number));
  }

  /** Whether it has what this transaction has done; one that was rolled back has published nothing. */
  sees(transaction) {
    return transaction < this.#end && !this.#running.has(transaction);
  }
}

export class Table {
  /** The rows, by their keys. */
  rows = new Map();
  #snapshot = null;
  #waiting = [];
  #deleted = new Map();

  constructor(key = "id", version = "version") {
    this.key = key;
    this.version = version;
  }

  /** Whether a snapshot is there, and not only asked for. */
  get isLoaded() {
    return this.#snapshot !== null;
  }

  /** Keep changes from here on until `load()`: a snapshot is about to be asked for. */
  begin() {
    this.#snapshot = null;
    this.#waiting = [];
  }

  /** Take a snapshot that was asked for after `begin()`; returns what came of the changes that have waited. */
  load(snapshot, rows) {
    const waiting = this.#waiting;
    this.#snapshot = new Snapshot(snapshot);
    this.#waiting = [];
    this.#deleted.clear();
    this.rows = new Map(rows.map((row) => [row[this.key], row]));
    return waiting.flatMap((change) => this.take(change));
  }

  /**
   * Take a message of publish_change(). Returns what came of it: { operation, key, row, changed } for each row, none if that
   * is known already or has to wait, two if a row has another key now. Where the table is not loaded any more behind it,
   * another snapshot has to be asked for.
   */
  take(change) {
    if (!this.isLoaded) {
      this.#waiting.push(change);
      return [];
    }
    if (this.#snapshot.sees(change.transaction_id)) return [];
    if (change.operation === "truncate") {
      this.begin();
      return [{ operation: "truncate" }];
    }
    const { old, new: row, changed } = change;
    const hasLeft = old && (!row || row[this.key] !== old[this.key]);
    return [...(hasLeft ? this.#remove(old) : []), ...(row ? this.#put(row, changed) : [])];
  }

  #put(row, changed) {
    const key = row[this.key];
    if (row[this.version] <= this.#known(key)) return [];
    const operation = this.rows.has(key) ? "update" : "insert";
    this.rows.set(key, row);
    return [{ operation, key, row, changed: changed ?? [] }];
  }

  #remove(row) {
    const key = row[this.key];
    if (row[this.version] < this.#known(key) || row[this.version] <= (this.#deleted.get(key) ?? -1)) return [];
    this.rows.delete(key);
    // An older change of this row may still come.
    this.#deleted.set(key, row[this.version]);
    if (this.#deleted.size > MOST_DELETED) this.begin();
    return [{ operation: "delete", key, row, changed: [] }];
  }

  #known(key) {
    return Math.max(this.rows.get(key)?.[this.version] ?? -1, this.#deleted.get(key) ?? -1);
  }
}
