module example.org/application

go 1.19
