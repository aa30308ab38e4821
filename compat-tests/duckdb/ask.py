# DuckDB as a process that is asked: a JSON object with a statement a line in, one with its rows a line out.
#
#   {"sql": "SELECT 1"}  ->  {"rows": [[{"i": "1"}]], "seconds": 0.0004}  or  {"error": "..."}
#
# A value is null, true or false, {"i": integer}, {"f": number that need not be an integer}, or text.
import datetime, decimal, glob, json, os, sys, time
import duckdb, duckdb_extension_httpfs

connection = duckdb.connect(config={"threads": int(os.environ["DUCKDB_THREADS"])})
found = glob.glob(os.path.join(os.path.dirname(duckdb_extension_httpfs.__file__), "extensions/*/httpfs.duckdb_extension"))
# Nothing may be fetched meanwhile.
connection.execute("SET autoinstall_known_extensions = false")
# Standard output is for answers; what runs for seconds would show its progress there.
connection.execute("SET enable_progress_bar = false")
connection.execute(f"LOAD '{found[0]}'")


def value(cell):
    if cell is None or isinstance(cell, bool):
        return cell
    if isinstance(cell, int):
        return {"i": str(cell)}
    if isinstance(cell, (float, decimal.Decimal)):
        return {"f": str(cell)}
    if isinstance(cell, (datetime.date, datetime.datetime)):
        return cell.isoformat()
    return str(cell)


for line in sys.stdin:
    asked = json.loads(line)
    try:
        began = time.perf_counter()
        rows = connection.execute(asked["sql"]).fetchall()
        seconds = time.perf_counter() - began
        answer = {"rows": [[value(cell) for cell in row] for row in rows], "seconds": seconds}
    except duckdb.Error as error:
        answer = {"error": str(error)}
    print(json.dumps(answer), flush=True)
