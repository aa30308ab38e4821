# A tree in and out by sixteen threads. Arguments: source, destination, bucket.
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

source, back, name = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]


def put(path):
    s3.upload_file(str(path), name, str(path.relative_to(source)))


def get(key):
    target_path = back / key
    target_path.parent.mkdir(parents=True, exist_ok=True)
    s3.download_file(name, key, str(target_path))


with ThreadPoolExecutor(16) as pool:
    list(pool.map(put, [p for p in source.rglob("*") if p.is_file()]))
    keys = [o["Key"] for page in s3.get_paginator("list_objects_v2").paginate(Bucket=name) for o in page["Contents"]]
    list(pool.map(get, keys))
