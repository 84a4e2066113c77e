module.exports = "hello from Node"
