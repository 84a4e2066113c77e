FROM base
LABEL org.example.one=1 "org.example.two words"="a b" org.example.three='x y'
LABEL old style label
LABEL multi.line="a \
b" org.example.one=changed
LABEL with.variable=$HOME/x
#: options: --label given.on=commandline --label org.example.one=last
#: differs newest: history: 5 steps != 6 - row: History texts
