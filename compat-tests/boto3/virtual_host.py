# Bucket names in the host. Every name below `localhost` is this machine, which botocore's DNS rules accept as an endpoint.
import socket
real = socket.getaddrinfo
socket.getaddrinfo = lambda host, *a, **k: real("127.0.0.1" if str(host).endswith("localhost") else host, *a, **k)
port = endpoint.rsplit(":", 1)[1]
v = client(endpoint=f"http://localhost:{port}", addressing="virtual")
v.put_object(Bucket=bucket, Key="a/b c", Body=b"virtual")
same(body("a/b c"), b"virtual")
same([o["Key"] for o in v.list_objects_v2(Bucket=bucket)["Contents"]], ["a/b c"])
v.put_object(Bucket=bucket, Key=bucket, Body=b"own name")
same(body(bucket), b"own name")
v.put_object(Bucket=bucket, Key="_holdfast/health/live", Body=b"an object")
same(v.get_object(Bucket=bucket, Key="_holdfast/health/live")["Body"].read(), b"an object")
url = v.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "a/b c"})
assert f"{bucket}.localhost" in url
same(urllib.request.urlopen(url).read(), b"virtual")
