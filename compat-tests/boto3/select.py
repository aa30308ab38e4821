# S3 Select, from the examples and the reference of AWS's documentation.
import bz2, gzip

CSV = {"CSV": {}}
USE = {"CSV": {"FileHeaderInfo": "USE"}}
LINES = {"JSON": {"Type": "LINES"}}


def events(key, sql, input=USE, output=CSV, **more):
    answer = s3.select_object_content(
        Bucket=bucket, Key=key, Expression=sql, ExpressionType="SQL", InputSerialization=input, OutputSerialization=output, **more
    )
    return list(answer["Payload"])


def select(*arguments, **options):
    found = events(*arguments, **options)
    assert "End" in found[-1] and "Stats" in found[-2], found
    payload = b"".join(event["Records"]["Payload"] for event in found if "Records" in event)
    same(found[-2]["Stats"]["Details"]["BytesReturned"], len(payload))
    return payload.decode()


def put(key, text):
    s3.put_object(Bucket=bucket, Key=key, Body=text)


people = b"name,city,age\nJane,Chicago,30\nJohn,Boston,25\n\"O'Neil, Ed\",Chicago,51\n"
put("people.csv", people)

# Header modes: by name, by number, and with the header as a record.
same(select("people.csv", "SELECT s.name FROM S3Object s WHERE s.city = 'Chicago'"), "Jane\n\"O'Neil, Ed\"\n")
same(select("people.csv", "select _1, s._3 from s3object s limit 1", input={"CSV": {"FileHeaderInfo": "IGNORE"}}), "Jane,30\n")
same(select("people.csv", "SELECT _1 FROM S3Object", input={"CSV": {"FileHeaderInfo": "NONE"}}).splitlines()[0], "name")
same(select("people.csv", "SELECT * FROM S3Object s WHERE CAST(s.age AS INT) > 29 AND s.name LIKE 'J%'"), "Jane,Chicago,30\n")
same(select("people.csv", 'SELECT s."name" FROM S3Object AS s WHERE s.AGE = 25'), "John\n")
same(select("people.csv", "SELECT COUNT(*), SUM(CAST(age AS INT)), MIN(CAST(age AS INT)), MAX(age), AVG(CAST(age AS FLOAT)) FROM S3Object"), "3,106,25,51,35.333333333333336\n")
same(select("people.csv", "SELECT s.name AS n, s.age FROM S3Object s LIMIT 1", output={"JSON": {}}), '{"n":"Jane","age":"30"}\n')
same(select("people.csv", "SELECT * FROM S3Object LIMIT 0"), "")

# Delimiters, quotes, comments, and how records of the answer are written.
put("odd.csv", b"# none\ra;'x;''y'\rb;plain\r")
odd = {"CSV": {"FieldDelimiter": ";", "RecordDelimiter": "\r", "QuoteCharacter": "'", "Comments": "#"}}
same(select("odd.csv", "SELECT s._2 FROM S3Object s", input=odd), "x;'y\nplain\n")
written = {"CSV": {"QuoteFields": "ALWAYS", "FieldDelimiter": "\t", "RecordDelimiter": "|", "QuoteCharacter": "'", "QuoteEscapeCharacter": "\\"}}
same(select("odd.csv", "SELECT * FROM S3Object", input=odd, output=written), "'a'\t'x;\\'y'|'b'\t'plain'|")
put("quoted.csv", b'k,v\r\n1,"two\r\nlines"\r\n2,x\r\n')
lines = {"CSV": {"FileHeaderInfo": "USE", "AllowQuotedRecordDelimiter": True}}
same(select("quoted.csv", "SELECT s.v FROM S3Object s", input=lines), '"two\r\nlines"\nx\n')

# Compressed objects.
for kind, pack in (("GZIP", gzip.compress), ("BZIP2", bz2.compress)):
    put("packed", pack(people * 1))
    same(select("packed", "SELECT name FROM S3Object WHERE age = '25'", input={**USE, "CompressionType": kind}), "John\n")
    put("packed", pack(people)[:-9])
    fails("TruncatedInput", events, "packed", "SELECT * FROM S3Object", input={**USE, "CompressionType": kind}) if kind == "GZIP" else None

# JSON, as the reference of the FROM clause has it.
put("rules.json", b"""{ "Rules": [ {"id": "1"}, {"expr": "y > x"}, {"id": "2", "expr": "z = DEBUG"} ]}
{ "created": "June 27", "modified": "July 6" }""")
document = {"JSON": {"Type": "DOCUMENT"}}
same(select("rules.json", "SELECT id FROM S3Object[*].Rules[*].id", input=document, output={"JSON": {}}), '{"id":"1"}\n{}\n{"id":"2"}\n{}\n')
same(select("rules.json", "SELECT id FROM S3Object[*].Rules[*].id WHERE id IS NOT MISSING", input=document, output={"JSON": {}}), '{"id":"1"}\n{"id":"2"}\n')
same(
    select("rules.json", "SELECT d.created, d.modified FROM S3Object[*] d", input=document, output={"JSON": {}}),
    '{}\n{"created":"June 27","modified":"July 6"}\n',
)
put("dir.json", b"""{ "dir_name": "important_docs", "files": [ { "name": "." }, { "name": "..", "size": 1.50 } ], "owner": "AWS S3" }
{ "dir_name": "other_docs", "files": [], "owner": "User" }
""")
same(select("dir.json", "SELECT d.dir_name, d.files[1].name, d.files[1].size s FROM S3Object[*] d WHERE d.owner LIKE 'AWS%'", input=LINES), "important_docs,..,1.50\n")
same(select("dir.json", "SELECT * FROM S3Object[*].files[*] f", input=LINES, output={"JSON": {"RecordDelimiter": ";"}}), '{"name":"."};{"name":"..","size":1.50};')

# Functions of the reference.
put("one", b"x\n")
for expression, expected in {
    "CAST('2019' AS INT) + 1": "2020",
    "COALESCE(NULL, 1, 2)": "1",
    "NULLIF(1, 2)": "1",
    "CHAR_LENGTH('naïve')": "5",
    "LOWER('AbCdEfG!@#$') || UPPER('ß')": "abcdefg!@#$SS",
    "SUBSTRING('123456789' FROM 2 FOR 3)": "234",
    "SUBSTRING('123456789', 0, 1)": "1",
    "TRIM(BOTH '1' FROM '11211foobar22211122')": "211foobar22211122",
    "TRIM(LEADING FROM '   x ') || '|'": "x |",
    "DATE_ADD(year, 5, `2010-01-01T`)": "2015-01-01T",
    "DATE_DIFF(month, `2010-01-01T`, `2010-05T`)": "4",
    "DATE_DIFF(day, `2010-01-01T23:00Z`, `2010-01-02T01:00Z`)": "0",
    "EXTRACT(TIMEZONE_HOUR FROM `2010-01-01T23:12:59-07:08`)": "-7",
    "TO_STRING(`1969-07-20T20:18Z`, 'MMMM d, y h:m a')": "\"July 20, 1969 8:18 PM\"",
    "TO_TIMESTAMP('2007-02-23T12:14:33.079Z')": "2007-02-23T12:14:33.079Z",
    "CASE WHEN 1 = 2 THEN 'a' ELSE 'b' END": "b",
    "1 IN (1, 2) AND 5 BETWEEN 1 AND 6 AND NOT 'x' LIKE '_y'": "true",
    "1.10 * 3": "3.3",
}.items():
    same((expression, select("one", f"SELECT {expression} FROM S3Object", input=CSV)), (expression, expected + "\n"))

# Progress comes when it is asked for; statistics tell what was read.
put("large.csv", b"n,text\n" + b"".join(b"%d,%s\n" % (n, b"x" * (n % 50)) for n in range(50_000)))
found = events("large.csv", "SELECT * FROM S3Object", RequestProgress={"Enabled": True})
assert any("Progress" in event for event in found), "no progress"
size = s3.head_object(Bucket=bucket, Key="large.csv")["ContentLength"]
details = found[-2]["Stats"]["Details"]
same((details["BytesScanned"], details["BytesProcessed"]), (size, size))
same(max(len(event["Records"]["Payload"]) for event in found if "Records" in event) <= 1 << 20, True)

# A scan range has the records that begin in it: together they have all, none twice.
whole, parts, at = select("large.csv", "SELECT * FROM S3Object"), "", 0
for step in (10, 3, 100_000, 7, 1, 250_001, 2 << 20):
    parts += select("large.csv", "SELECT * FROM S3Object", ScanRange={"Start": at, "End": min(at + step, size) - 1})
    at += step
same(parts == whole, True)
same(select("large.csv", "SELECT s.n FROM S3Object s", ScanRange={"End": 60}), "49999\n")

# What is refused, by AWS's names.
for code, sql, options in (
    ("ParseSelectMissingFrom", "SELECT 1", {}),
    ("ParseUnexpectedToken", "SELECT * FROM S3Object WHERE a =", {}),
    ("ExpressionTooLong", "SELECT * FROM S3Object WHERE a = '" + "x" * (256 << 10) + "'", {}),
    ("MissingHeaders", "SELECT s.nothing FROM S3Object s", {}),
    ("EvaluatorBindingDoesNotExist", "SELECT s.name FROM S3Object s", {"input": CSV}),
    ("InvalidFileHeaderInfo", "SELECT * FROM S3Object", {"input": {"CSV": {"FileHeaderInfo": "MAYBE"}}}),
    ("InvalidCompressionFormat", "SELECT * FROM S3Object", {"input": {**USE, "CompressionType": "RAR"}}),
    ("InvalidJsonType", "SELECT * FROM S3Object", {"input": {"JSON": {"Type": "LIST"}}}),
    ("InvalidQuoteFields", "SELECT * FROM S3Object", {"output": {"CSV": {"QuoteFields": "NEVER"}}}),
    ("ObjectSerializationConflict", "SELECT * FROM S3Object", {"input": {**USE, **LINES}}),
    ("MissingRequiredParameter", "SELECT * FROM S3Object", {"output": {}}),
    ("InvalidScanRange", "SELECT * FROM S3Object", {"ScanRange": {"Start": 5000, "End": 6000}}),
    ("UnsupportedScanRangeInput", "SELECT * FROM S3Object", {"input": {**USE, "CompressionType": "GZIP"}, "ScanRange": {"Start": 0, "End": 9}}),
    ("UnsupportedScanRangeInput", "SELECT * FROM S3Object", {"input": document, "ScanRange": {"Start": 0, "End": 9}}),
    ("InvalidExpressionType", "SELECT * FROM S3Object", {"ExpressionType": "XQUERY"}),
):
    asked = {"Bucket": bucket, "Key": "people.csv", "Expression": sql, "ExpressionType": "SQL"}
    asked |= {"InputSerialization": options.pop("input", USE), "OutputSerialization": options.pop("output", CSV), **options}
    fails(code, s3.select_object_content, **asked)
fails("NoSuchKey", events, "nothing", "SELECT * FROM S3Object")

# What goes wrong on the way ends the stream with an error of its name.
put("late.csv", b"n\n" + b"1\n" * 3_000_000 + b"x\n")
try:
    select("late.csv", "SELECT CAST(n AS INT) FROM S3Object")
    raise AssertionError("a wrong number was cast")
except botocore.exceptions.EventStreamError as error:
    same(error.response["Error"]["Code"], "CastFailed")

# Over a prefix: all objects under it in the order of their keys, those of another format left out.
for key, text in (("p/a.csv", b"k,v\n1,x\n"), ("p/b/c.csv", b"v,k\ny,2\n"), ("p/d.csv.gz", gzip.compress(b"k\n3\n")), ("p/e.json", b"{}"), ("p/", b""), ("q.csv", b"k\n9\n")):
    put(key, text)
same(select("p/", "SELECT s.k, s.v FROM S3Object s"), "1,x\n2,y\n3,\n")
same(select("p/", "SELECT SUM(CAST(k AS INT)) FROM S3Object"), "6\n")
same(select("p/", "SELECT s.k FROM S3Object s LIMIT 2"), "1\n2\n")
same(select("empty/", "SELECT s.k FROM S3Object s"), "")
