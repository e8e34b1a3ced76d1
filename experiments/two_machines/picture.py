def draw(result, path): path.write_bytes(b"")
