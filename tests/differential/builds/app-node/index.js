console.log(require("greeting"))
