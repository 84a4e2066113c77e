// The UDP server of graygelf: prints its port, then each message as a line of JSON.
const GrayGelfServer = require("graygelf/server");

const server = GrayGelfServer();
server.on("message", (message) => console.log(JSON.stringify(message)));
server.on("error", (error) => console.log(JSON.stringify({ error: String(error) })));
server.port = 0;
server.listen(process.argv[2], "127.0.0.1");
server._udp.on("listening", () => console.log(JSON.stringify({ port: server._udp.address().port })));
