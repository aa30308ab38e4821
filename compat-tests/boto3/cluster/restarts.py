# Clients with the SDK's own retries, two on each node: `begun` is written when they work, and they end when `over` exists.
# `away` counts requests to a node whose process was gone for longer than the SDK tried, `failed` all other failures.
begun, over, *endpoints = sys.argv[1:]
counts = {"done": 0, "failed": 0, "away": 0, "wrong": 0, "retried": 0, "longest_s": 0.0}
errors = []
lock = threading.Lock()


def work(number, url):
    own = boto3.client("s3", endpoint_url=url, config=Config(signature_version="s3v4", s3={"addressing_style": "path"}))
    step = 0
    while not os.path.exists(over):
        step += 1
        key, data = f"{number}-{step % 5}", f"{number} {step}".encode()
        for name, call in (
            ("put", lambda: own.put_object(Bucket=bucket, Key=key, Body=data)),
            ("get", lambda: own.get_object(Bucket=bucket, Key=key)),
            ("list", lambda: own.list_objects_v2(Bucket=bucket, Prefix=key)),
        ):
            began, wrong, failed, retried = time.time(), False, None, 0
            try:
                answer = call()
                retried = answer["ResponseMetadata"]["RetryAttempts"]
                if name == "get":
                    wrong = answer["Body"].read() != data
                if name == "list":
                    wrong = answer["KeyCount"] != 1
            except Exception as error:
                failed = f"{name} on {url}: {type(error).__name__}: {error}"
            # The process of this very node is gone, or has only just begun.
            away = failed and ("EndpointConnectionError" in failed or "ConnectionClosed" in failed or "is starting" in failed)
            with lock:
                counts["done"] += 1
                counts["retried"] += retried
                counts["wrong"] += wrong
                counts["away"] += bool(away)
                counts["failed"] += failed is not None and not away
                counts["longest_s"] = round(max(counts["longest_s"], time.time() - began), 1)
                if failed and not away and len(errors) < 20:
                    errors.append(failed)
            if failed:
                break
        time.sleep(0.02)


threads = [threading.Thread(target=work, args=(n, endpoints[n % len(endpoints)])) for n in range(2 * len(endpoints))]
for thread in threads:
    thread.start()
time.sleep(0.5)
open(begun, "w").close()
for thread in threads:
    thread.join()
print(json.dumps({**counts, "errors": errors}))
