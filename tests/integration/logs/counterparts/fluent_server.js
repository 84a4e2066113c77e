// The forward server of @fluent-org/logger: prints its port, then each event as a line of JSON.
// Arguments: a port (0: any) or the path of a Unix socket; with a certificate and a key it speaks TLS.
const fs = require("fs");
const { FluentServer, EventTime } = require("@fluent-org/logger");

const [where, certificate, key] = process.argv.slice(2);
const options = {
  listenOptions: /^\d+$/.test(where) ? { port: Number(where), host: "127.0.0.1" } : { path: where },
};
if (certificate) {
  options.tlsOptions = { cert: fs.readFileSync(certificate), key: fs.readFileSync(key) };
}
const server = new FluentServer(options);
server.on("entry", (tag, time, record) => {
  const exact = time instanceof EventTime;
  console.log(JSON.stringify({ tag, time: exact ? [time.epoch, time.nano] : time, record }));
});
server.on("error", (error) => console.log(JSON.stringify({ error: String(error) })));
server.listen().then(() => console.log(JSON.stringify({ port: server.port })));
