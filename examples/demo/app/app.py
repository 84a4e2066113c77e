"""A guest book: a small web application that keeps its entries in PostgreSQL."""

import json
import os
import signal
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pg8000.native


def connect():
    """A new connection to the database that DATABASE_URL names, with the table in place."""
    url = urlsplit(os.environ["DATABASE_URL"])
    connection = pg8000.native.Connection(
        url.username,
        password=url.password,
        host=url.hostname,
        port=url.port or 5432,
        database=url.path.lstrip("/"),
        timeout=5,
    )
    connection.run("CREATE TABLE IF NOT EXISTS entry (id serial PRIMARY KEY, text varchar(200) NOT NULL)")
    return connection


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer(lambda db: [row[0] for row in db.run("SELECT text FROM entry ORDER BY id")])

    def do_POST(self):
        length = min(int(self.headers.get("Content-Length", 0)), 200)
        text = self.rfile.read(length).decode("utf-8", "replace")
        self.answer(lambda db: db.run("INSERT INTO entry (text) VALUES (:text) RETURNING id", text=text)[0][0])

    def answer(self, query):
        try:
            db = connect()
            try:
                status, body = 200, query(db)
            finally:
                db.close()
        except (pg8000.exceptions.Error, OSError) as error:
            status, body = 503, {"error": str(error)}
        data = json.dumps(body).encode() + b"\n"
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    print("listening on port 8000", flush=True)
    ThreadingHTTPServer(("0.0.0.0", 8000), Handler).serve_forever()
