# Presigned URLs and browser forms, sent as a browser would: without any SDK.
def send(url, method="GET", data=None, headers={}):
    request = urllib.request.Request(url, data=data, method=method, headers=headers)
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, answer.read(), {k.lower(): v for k, v in answer.headers.items()}
    except urllib.error.HTTPError as error:
        return error.code, error.read(), {k.lower(): v for k, v in error.headers.items()}


put = s3.generate_presigned_url("put_object", Params={"Bucket": bucket, "Key": "a b+c"}, ExpiresIn=60)
same(send(put, "PUT", b"signed", {"Content-Type": "text/x"})[0], 200)
get = s3.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "a b+c", "ResponseContentType": "text/y"}, ExpiresIn=60)
status, data, headers = send(get)
same((status, data, headers["content-type"]), (200, b"signed", "text/y"))
# One method, one key, one query: nothing else.
# (501: the name of an override in the query belongs to no DELETE at all.)
assert send(get, "DELETE")[0] in (403, 501)
same(send(get.replace("a%20b%2Bc", "other"))[0], 403)
same(send(get + "&versionId=null")[0], 403)
same(send(get.replace("text%2Fy", "text%2Fz"))[0], 403)
same(send(get[:-1] + ("0" if get[-1] != "0" else "1"))[0], 403)
# The holder cannot make it a copy of something else.
s3.put_object(Bucket=bucket, Key="secret", Body=b"secret")
status, data, _ = send(put, "PUT", b"", {"x-amz-copy-source": f"/{bucket}/secret"})
assert status == 403, (status, data)
same(body("a b+c"), b"signed")
# It ends.
short = s3.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "secret"}, ExpiresIn=1)
time.sleep(2.1)
same(send(short)[0], 403)
delete = s3.generate_presigned_url("delete_object", Params={"Bucket": bucket, "Key": "secret"})
same(send(delete, "DELETE")[0], 204)
assert "NoSuchKey" in send(s3.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "secret"}))[1].decode()


def form(fields, content, filename="up.bin"):
    boundary = "holdfast-boundary"
    parts = [f'--{boundary}\r\nContent-Disposition: form-data; name="{k}"\r\n\r\n{v}\r\n'.encode() for k, v in fields.items()]
    parts.append(f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{filename}"\r\n'
                 f"Content-Type: application/octet-stream\r\n\r\n".encode() + content + f"\r\n--{boundary}--\r\n".encode())
    return b"".join(parts), {"Content-Type": f"multipart/form-data; boundary={boundary}"}


def post(key, content, conditions=(), extra={}, **options):
    signed = s3.generate_presigned_post(bucket, key, Fields=dict(options.get("Fields", {})), Conditions=list(conditions), ExpiresIn=60)
    data, headers = form({**signed["fields"], **extra}, content, options.get("filename", "up.bin"))
    return send(signed["url"], "POST", data, headers)


same(post("form/one", b"first\r\n--line")[0], 204)
same(body("form/one"), b"first\r\n--line")
status, data, _ = post("form/two", b"x" * 100, [["content-length-range", 1, 1000], {"success_action_status": "201"}],
                       Fields={"success_action_status": "201"})
assert status == 201 and b"<Key>form/two</Key>" in data, (status, data)
same(post("form/${filename}", b"named", filename="n.txt")[0], 204)
same(body("form/n.txt"), b"named")
status, data, _ = post("form/big", b"x" * 2000, [["content-length-range", 1, 1000]])
assert status == 400 and b"EntityTooLarge" in data, (status, data)
same(post("form/extra", b"x", extra={"x-amz-meta-not-in-policy": "1"})[0], 403)
fails("404", s3.head_object, Bucket=bucket, Key="form/big")
fails("404", s3.head_object, Bucket=bucket, Key="form/extra")
